"""ASM: accommodation declaration (thông báo lưu trú) with receipts, sealed data and a sync that loses nothing."""

__version__ = "0.1.0"
