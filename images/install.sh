#!/bin/sh
# Stage one: our wheel, and everything it needs, into a virtual environment. Needs the build context at /mnt and no network.
# `sh install.sh DIRECTORY`
set -eu
directory=$1
export PIP_NO_INDEX=1 PIP_FIND_LINKS=/mnt/wheels PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
pip="python3 $(echo /mnt/wheels/pip-*.whl)/pip"
cp -r /mnt/source /tmp/source
# Folders with fixed names, and no debug information: a compiler writes down where it found its source.
mkdir /tmp/sdist
for archive in /mnt/wheels/*.tar.gz; do tar -xf "$archive" -C /tmp/sdist; done
CFLAGS="-O2 -g0" $pip wheel -q --no-deps --no-cache-dir -w /tmp/own /tmp/source /tmp/sdist/*
python3 -m venv --without-pip "$directory"
$pip --python "$directory/bin/python" install -q --no-compile --no-cache-dir -c /mnt/source/scripts/constraints.txt \
  --find-links /tmp/own attested-volumes
# Without a compiler the package installs too, only slower: here that would be a mistake.
for module in _xts _digest _section; do ls "$directory"/lib/python3*/site-packages/encfs/$module*.so; done
# By content, not by time: the same files give the same bytes. Nobody writes bytecode later.
"$directory/bin/python" -m compileall -q -j 1 --invalidation-mode unchecked-hash "$directory/lib"
# Where a file was installed from, and when, is nothing an image should depend on.
find "$directory" -name direct_url.json -delete
rm -rf /tmp/source /tmp/sdist /tmp/own "$directory"/bin/Activate.ps1 "$directory"/bin/activate*
