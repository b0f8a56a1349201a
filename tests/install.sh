#!/usr/bin/env bash
# Installs what the tests with real containers, the demo and the build need on Debian or Ubuntu, and nothing that is
# there already. Safe to run again. The packages stay; every run removes whatever else it makes.
# `install.sh vm` installs what emulated machines need too.
set -euo pipefail

# command-or-file:package
needed=(
    /usr/bin/containerd:containerd
    runc:runc
    /usr/lib/cni/bridge:containernetworking-plugins
    /usr/bin/busybox:busybox-static
    /usr/bin/catatonit:catatonit
    ip:iproute2
    iptables:iptables
    nsenter:util-linux
    strace:strace
    dbus-daemon:dbus-daemon
    docker-registry:docker-registry
    protoc:protobuf-compiler
    jq:jq
    shellcheck:shellcheck
    ps:procps
    losetup:mount
    mkfs.ext4:e2fsprogs
)
if [ "${1:-}" = vm ]; then
    needed+=(
        qemu-system-x86_64:qemu-system-x86
        mmdebstrap:mmdebstrap
        xz:xz-utils
        zstd:zstd
        dpkg-deb:dpkg
        setpriv:util-linux
        /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
    )
fi

missing=()
for entry in "${needed[@]}"; do
    have=${entry%:*} package=${entry##*:}
    if [ "$package" = busybox-static ]; then
        # The package busybox has the same path, and links libc: no use in an image of its own.
        dpkg-query -W -f '${Status}' busybox-static 2>/dev/null | grep -q ' installed$' || missing+=("$package")
    elif [ ! -e "$have" ] && ! PATH=$PATH:/usr/sbin:/sbin command -v "$have" >/dev/null; then
        missing+=("$package")
    fi
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "install.sh: missing: ${missing[*]}; there is no apt-get here, install them by hand" >&2
    exit 1
fi
if dpkg-query -W -f '${Status}' containerd.io 2>/dev/null | grep -q ' installed$'; then
    # Debian's containerd and runc would replace Docker's.
    for package in "${missing[@]}"; do
        case $package in containerd | runc)
            echo "install.sh: $package is missing, but containerd.io is installed and would be removed by it: not done" >&2
            exit 1
            ;;
        esac
    done
fi
if [ "$(id -u)" != 0 ]; then
    echo "install.sh: missing: ${missing[*]}; run 'sudo make install-test-packages' or 'sudo apt-get install ${missing[*]}'" >&2
    exit 1
fi

echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Debian starts a containerd service of its own when there is systemd; the tests do not use it. A registry that listens on
# every address is another matter: none is started, now or when the machine boots.
policy=/usr/sbin/policy-rc.d
case " ${missing[*]} " in *' docker-registry '*)
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        cat >"$policy" <<'SH'
#!/bin/sh
case $1 in docker-registry | docker-registry.*) exit 101 ;; esac
SH
        chmod 755 "$policy"
    fi
    ;;
esac
install=(apt-get install -y -q --no-install-recommends "${missing[@]}")
"${install[@]}" >/tmp/kubelet-install.log 2>&1 || {
    # The package lists may be absent or old.
    apt-get update -q >>/tmp/kubelet-install.log 2>&1 && "${install[@]}" >>/tmp/kubelet-install.log 2>&1
} || {
    tail -n 20 /tmp/kubelet-install.log >&2
    exit 1
}
rm -f /tmp/kubelet-install.log
case " ${missing[*]} " in *' docker-registry '*)
    if command -v systemctl >/dev/null; then
        systemctl disable --now docker-registry >/dev/null 2>&1 || true
    fi
    ;;
esac
