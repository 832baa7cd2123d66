"""The tuner inside loops that a framework runs. Each module imports its framework; nothing imports them.

`autotune.integrations.lightning` and `autotune.integrations.transformers` are callbacks. accelerate leaves
the loop to its user and needs no module: give `AutoTuner` what `Accelerator.prepare` returned.
"""
