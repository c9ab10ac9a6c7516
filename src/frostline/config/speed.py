"""The groups `speed` and `cache`: never to compute twice what is frozen."""

from pydantic import Field

from frostline.config.paths import OutputFolder
from frostline.config.section import Section
from frostline.prefix.engine_names import DEFAULT_ENGINE, EngineName


class Speed(Section):
    """Ways to be faster that change no result beyond rounding; each can be turned off."""

    frozen_prefix: bool = Field(
        default=True,
        description="run what lies before the frost line without an autograd graph; needed by feature_cache",
    )
    feature_cache: bool = Field(
        default=True,
        description="keep what the frozen part computes of an image, for later epochs, phases and runs; see cache",
    )
    engine: EngineName = Field(
        default=DEFAULT_ENGINE,
        description="what computes the frozen layers; auto: openvino on a CPU where it is installed and the images are "
        "so many that the conversion pays, else torch",
    )
    fused_optimizer: bool = Field(default=True, description="take torch's fused form of the optimizer where it has one")
    allocator: bool = Field(
        default=True,
        description="on Linux with glibc, let this process keep memory that it has freed: saves page faults",
    )


class Cache(Section):
    """Where the features of the frozen part are kept, and of which images."""

    views: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="fixed augmented views kept of each training image, one of which is drawn at each draw (not the "
        "same as fresh augmentation); 0: training images that are augmented are not kept",
    )
    folder: OutputFolder | None = Field(
        default=None,
        description="folder of the features, which runs and processes may share; null: $FROSTLINE_CACHE, or else "
        "~/.cache/frostline/features",
    )
    limit_gb: float = Field(
        default=20.0,
        gt=0,
        description="GB (10^9 bytes) that the folder may take; the least recently used features are evicted (LRU)",
    )
