#!/bin/sh
# Installs the Debian packages in /mnt, with dpkg alone: the base may have no apt. Leaves no log and no old copy behind.
set -eu
export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes
missing() {
  for file in /mnt/*.deb; do
    name=$(dpkg-deb -f "$file" Package)
    status=$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) || status=absent
    [ "$status" = installed ] || echo "$name"
  done
}
# A package that another one must be configured before (Pre-Depends) goes in with a later pass.
for pass in 1 2 3 4 5 6; do
  dpkg -i -E /mnt/*.deb >/tmp/dpkg.out 2>&1 || true
  dpkg --configure -a >>/tmp/dpkg.out 2>&1 && [ -z "$(missing)" ] && break
done
left=$(missing)
[ -z "$left" ] || { cat /tmp/dpkg.out >&2; echo "debs.sh: not installed after $pass passes:" $left >&2; exit 1; }
rm -rf /tmp/dpkg.out /var/log/dpkg.log /var/log/alternatives.log /var/log/apt /var/cache/ldconfig \
  /var/cache/debconf/*-old /var/lib/dpkg/*-old
