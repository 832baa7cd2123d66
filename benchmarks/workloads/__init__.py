"""The workloads of the suites, one a file."""
