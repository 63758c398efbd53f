"""Co-design of networks and compute-in-memory hardware: data, devices, evaluator, study and report."""
