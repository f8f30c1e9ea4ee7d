"""The DistributedTraining API: typed resource, contract between operator and pod, and the generated CRD."""

__version__ = "0.1.0"
