"""The life of an adapter beside its training: what users do with it, and the laws that must hold meanwhile."""
