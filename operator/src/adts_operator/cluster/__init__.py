"""Where pods come from: Kubernetes, or processes of this machine."""
