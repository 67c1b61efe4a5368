"""Univariate series of many kinds, drawn from a seed: all that the general network is ever trained on.

Each series is made in four steps: a clock (interval 1 s to 1 h, regular or not), a signal of one of KINDS on that
clock, for some a second signal on top, and last what sensors and transport do to it: outliers, lasting changes of
level, limits, steps of quantisation, physical units, missing values. Nothing in it is an anomaly: all that occurs is
something that a forecaster has to live with.
"""

from gatewatch.models.training.general.synthetic.clocks import Clock
from gatewatch.models.training.general.synthetic.corpus import Corpus, generate
from gatewatch.models.training.general.synthetic.signals import KINDS

__all__ = ["KINDS", "Clock", "Corpus", "generate"]
