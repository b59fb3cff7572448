"""prefloop: align a language model with what people prefer, end to end."""

__version__ = "0.1.0"
