"""changedet: new structures in satellite image time series."""

__version__ = "0.1.0"
