"""Surrogates: models that predict scores of architectures that were never trained."""
