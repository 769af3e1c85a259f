"""The typed configuration: sections, the sweep file, overrides."""
