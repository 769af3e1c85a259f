"""What a model must know of the data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelContext:
    """The facts about the data that fix a model's shape and map; stored with every checkpoint."""

    class_names: tuple[str, ...]
    feature_channels: int
    grid_size: tuple[int, int]
    image_size: int
    grid_of_patches: bool = field(default=False, repr=False)
    """Whether each location is a patch of the image, as a plain ViT's are, and lies at its centre; a stage of a
    hierarchical network is brought onto the grid corner to corner. The backbone's name tells, so no checkpoint does."""

    @property
    def grid_stride(self) -> int:
        """Pixels of the image per location of the grid."""
        return self.image_size // self.grid_size[0]
