#!/usr/bin/env bash
# Makes the disk of an emulated machine: Debian with systemd, containerd and a root shell on the second serial port.
#
#   image.sh SUITE OUT GUEST PACKAGE…
#
# Writes OUT/disk.raw (ext4, sparse), OUT/vmlinuz and OUT/initrd. GUEST holds files that are copied over the root as
# they are. Packages come from the Debian mirror that this machine's own apt is told of, or from $DEBIAN_MIRROR. Root
# is needed. Called by image.rs, which keeps what comes out.
# shellcheck disable=SC2016 # what is in single quotes is apt's, or a hook's to expand
set -euo pipefail
suite=$1 out=$2 guest=$3
shift 3
packages=$(IFS=,; echo "$*")

mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(SITE)' 'Created-By: Packages' |
    sed -n 's/^Debian|Debian|//p' | head -n 1)}
if [ -z "$mirror" ]; then
    echo "image.sh: this machine's apt knows no Debian mirror; name one: DEBIAN_MIRROR=http://…" >&2
    exit 1
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

work=$(mktemp -d "$out/work.XXXXXX")
root=$work/root
trap 'rm -rf --one-file-system "$work"' EXIT

# Nothing here survives a crash of the machine that builds, and need not.
export DEBIAN_FRONTEND=noninteractive
# A mirror may lag behind: what it has is signed all the same, be it past its date.
mmdebstrap --quiet --mode=root --variant=apt --format=directory --keyring="$keyring" \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include="$packages" \
    --customize-hook='export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG; mkdir "$1/kernel" && cd "$1/kernel" &&
        needs() { apt-cache depends "$1" | sed -n "s/^ *Depends: \\($2.*\\)/\\1/p"; } &&
        image=$(needs linux-image-cloud-amd64 linux-image- | head -n 1) &&
        apt-get download -q -o APT::Sandbox::User=root "$image" $(needs "$image" linux-binary-) $(needs "$image" linux-modules-)' \
    "$suite" "$root" "$mirror" >&2

# The kernel is unpacked, not installed: its package would bring a boot loader's hooks and an initramfs of its own. From
# Debian 14 on it is three packages.
for package in "$root"/kernel/*.deb; do dpkg-deb -x "$package" "$work/kernel"; done
rm -rf "$root/kernel" "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb
# In /boot, or beside its modules.
kernel=$(find "$work/kernel" -name 'vmlinuz*' -type f | head -n 1)
cp "$kernel" "$out/vmlinuz"
modules=$(echo "$work"/kernel/lib/modules/* "$work"/kernel/usr/lib/modules/* | tr ' ' '\n' | grep -v '\*')
version=${modules##*/}
mkdir -p "$root/usr/lib/modules"
cp -a "$modules" "$root/usr/lib/modules/"
chroot "$root" depmod "$version"

# The initrd: what finds the disk, in the order it is to be loaded, and busybox.
initrd=$work/initrd
mkdir -p "$initrd"/{bin,dev,modules,root}
cp "$root/bin/busybox" "$initrd/bin/busybox"
number=100
for wanted in virtio_pci virtio_blk ext4; do
    while read -r verb module _; do
        [ "$verb" = insmod ] || continue
        name=${module##*/}
        [ -z "$(find "$initrd/modules" -name "*-${name%%.*}.ko")" ] || continue
        case $module in
        *.xz) xz -dc "$root$module" ;;
        *.zst) zstd -qdc "$root$module" ;;
        *) cat "$root$module" ;;
        esac >"$initrd/modules/$number-${name%%.*}.ko"
        number=$((number + 1))
    done < <(chroot "$root" modprobe --show-depends --set-version "$version" "$wanted")
done
cat >"$initrd/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin
busybox mount -t devtmpfs dev /dev
for module in /modules/*; do busybox insmod "$module"; done
tries=0
until [ -b /dev/vda ]; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { echo "initrd: no disk" >&2; exec busybox sh; }
    busybox usleep 100000
done
busybox mount -t ext4 /dev/vda /root
busybox umount /dev
exec busybox switch_root /root /sbin/init
INIT
chmod 755 "$initrd/init"
(cd "$initrd" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$out/initrd"

cp -r "$guest/." "$root/"
echo node >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 node\n' >"$root/etc/hosts"
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
mkdir -p "$root/var/log/journal"
if [ ! -e "$root/usr/lib/systemd/system/systemd-resolved.service" ]; then
    # A documentation address (RFC 5737): nobody answers, and nobody needs to.
    printf 'nameserver 192.0.2.53\n' >"$root/etc/resolv.conf"
else
    ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
fi
chroot "$root" systemctl --quiet enable serial-shell.service systemd-networkd.service containerd.service
# Work that an emulated processor does slowly and nobody here looks at.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer getty@tty1.service serial-getty@ttyS0.service serial-getty@ttyS1.service \
    systemd-pcrphase.service systemd-pstore.service systemd-update-utmp-runlevel.service modprobe@configfs.service \
    modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount

truncate -s 4G "$out/disk.raw"
mkfs.ext4 -q -F -N 120000 -E lazy_itable_init=0,lazy_journal_init=1 -d "$root" "$out/disk.raw" >&2
