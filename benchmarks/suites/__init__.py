"""The benchmark suites: policies against properly tuned baselines."""
