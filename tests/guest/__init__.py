"""A real Linux kernel under emulation, as judge of what this project writes and reads.

The machines this project is tested on rarely have device-mapper, so an image is shown to the reference
implementation (dm-crypt, dm-integrity, dm-verity, ext4, cryptsetup) inside a small guest: Debian's own kernel
and programs, unmodified, in QEMU without hardware acceleration. About five seconds a boot.

    guest = prepare()                                     # builds the guest once, into the user's cache
    result = guest.run("cryptsetup luksDump /dev/vda", images=[image])
    assert result.status == 0, result.output

`cpio` packs an initramfs, `parts` gathers kernel and programs, `machine` boots and reports.
"""
