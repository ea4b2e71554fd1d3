"""Region proposals."""

from .rpn import RPN, StandardRPNHead

__all__ = ["RPN", "StandardRPNHead"]
