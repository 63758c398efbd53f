"""scipy.ndimage, or an error that says which extra has it."""

try:
    from scipy import ndimage
except ImportError as error:
    raise ImportError("brain MRI needs scipy: pip install 'lightning-cim[mri]'") from error

__all__ = ["ndimage"]
