from cankd_mm.models.backbones.efficientnet_lite import EfficientNetLite

__all__ = ['EfficientNetLite']
