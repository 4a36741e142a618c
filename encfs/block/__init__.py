"""Block devices: sources and layers that share one interface (`device.BlockDevice`).

Kind: pure
"""
