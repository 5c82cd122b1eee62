"""What students are made of and exported with: it needs MMDetection, and nothing else of this package or MMRazor."""

from cankd_mm.backbones.efficientnet_lite import EfficientNetLite

__all__ = ['EfficientNetLite']
