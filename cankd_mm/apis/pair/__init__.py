from cankd_mm.apis.pair.write import write_pair

__all__ = ['write_pair']
