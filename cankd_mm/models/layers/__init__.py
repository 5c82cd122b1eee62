from cankd_mm.models.layers.affinity import concatenation_attention, dot_product_attention, softmax_attention
from cankd_mm.models.layers.can_block import CanBlock

__all__ = ['CanBlock', 'concatenation_attention', 'dot_product_attention', 'softmax_attention']
