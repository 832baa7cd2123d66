"""Policies: laws that decide, each a small file that knows neither torch nor the tuner."""
