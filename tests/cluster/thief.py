"""A network that spoils the data set while a worker group starts."""

from pathlib import Path

from raysde.networks import UNet, UNetConfig


class Thief(UNet):
    """When it is built, which is when the stream has begun, every shard vanishes or loses its end."""

    def __init__(self, image, condition, folder: str, harm: str) -> None:
        size = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8)
        super().__init__(size, image, condition)
        for path in Path(folder).glob("*.parquet"):
            path.unlink() if harm == "vanishes" else path.write_bytes(path.read_bytes()[:-200])
