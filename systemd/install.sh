#!/bin/sh
# Installs the kubelet on a machine with systemd where there is no package for it, and takes it away again.
#   install.sh [--dry-run] [--binary FILE] [--no-start]
#   install.sh --uninstall [--dry-run] [--stop-pods]
# Installing looks at what the kubelet needs first, says what is missing and how to get it, and changes nothing then.
# What it made is listed in /usr/local/share/kubelet/installed; --uninstall removes exactly that. Pods keep running, unless
# --stop-pods ends them; manifests, and a configuration that was changed since, stay.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
manifest=/usr/local/share/kubelet/installed
share=/usr/local/share/kubelet
unit=/etc/systemd/system/kubelet.service
config=/var/lib/kubelet/config.yaml
binary=
dry_run=
start=yes
verb=install
stop_pods=

say() { echo "install.sh: $*"; }
die() {
    echo "install.sh: $*" >&2
    exit 1
}
usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0"
}

while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry_run=yes ;;
    --uninstall) verb=uninstall ;;
    --stop-pods) stop_pods=yes ;;
    --no-start) start= ;;
    --binary)
        [ $# -gt 1 ] || die "--binary wants a file"
        binary=$2
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 64
        ;;
    esac
    shift
done

# Runs a command, or only says so.
act() {
    if [ -n "$dry_run" ]; then
        echo "would run: $*"
    else
        "$@"
    fi
}

has() { command -v "$1" >/dev/null 2>&1; }

# --- what it needs -------------------------------------------------------------------------------------------------------

failures=0
# A failed check: what is wrong, and the remedy.
lacks() {
    failures=$((failures + 1))
    echo "  no   $1"
    echo "       remedy: $2"
}
warns() {
    echo "  note $1"
    echo "       $2"
}
fine() { echo "  ok   $1"; }

check_systemd() {
    if [ -d /run/systemd/system ]; then
        fine "systemd runs"
    else
        lacks "systemd is not the init system" "boot with systemd, or run the binary under another supervisor: $binary --config=$config"
    fi
}

check_runtime() {
    if [ -S /run/containerd/containerd.sock ]; then
        if has containerd && containerd config dump 2>/dev/null | grep -q '^ *disabled_plugins *=.*cri'; then
            lacks "containerd's CRI plugin is disabled" "take cri out of disabled_plugins in /etc/containerd/config.toml, then: systemctl restart containerd"
        else
            fine "containerd answers on /run/containerd/containerd.sock"
        fi
    elif [ -S /run/crio/crio.sock ]; then
        fine "CRI-O answers on /run/crio/crio.sock"
    else
        lacks "neither containerd nor CRI-O runs" "install containerd 1.6 or later, or CRI-O, and start it: systemctl enable --now containerd"
    fi
}

check_cgroups() {
    if [ "$(stat -f -c %T /sys/fs/cgroup 2>/dev/null || stat -f /sys/fs/cgroup | sed -n 's/.*Type: *//p')" = cgroup2fs ] || [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        fine "cgroup v2"
    else
        lacks "the machine has cgroup v1, which the kubelet refuses by default" "boot with systemd.unified_cgroup_hierarchy=1"
    fi
}

check_cni() {
    plugins=
    for directory in /opt/cni/bin /usr/lib/cni /usr/libexec/cni; do
        if [ -x "$directory/loopback" ]; then plugins=$directory; fi
    done
    if [ -n "$plugins" ]; then
        fine "CNI plugins in $plugins"
    else
        lacks "no CNI plugins in /opt/cni/bin, /usr/lib/cni or /usr/libexec/cni" "install your distribution's containernetworking-plugins, and see that bin_dir of containerd's CRI plugin names their directory"
    fi
    for file in /etc/cni/net.d/*.conf /etc/cni/net.d/*.conflist /etc/cni/net.d/*.json; do
        if [ -e "$file" ]; then
            fine "a pod network in $file"
            return
        fi
    done
    lacks "no pod network: /etc/cni/net.d is empty" "mkdir -p /etc/cni/net.d && cp $here/10-bridge.conflist /etc/cni/net.d/ (a bridge of this machine's own, 10.88.0.0/16), or your network add-on's file"
}

check_iptables() {
    if has iptables || [ -x /usr/sbin/iptables ] || [ -x /sbin/iptables ]; then
        fine "iptables"
    else
        lacks "no iptables, which host ports and masquerading go through" "install your distribution's iptables"
    fi
}

check_swap() {
    if [ -r /proc/swaps ] && [ "$(wc -l </proc/swaps)" -gt 1 ]; then
        warns "swap is on" "the configuration will say failSwapOn: false; to have it off: swapoff -a, and take it out of /etc/fstab"
    else
        fine "no swap"
    fi
}

check_others() {
    if [ -e /usr/bin/kubelet ] || { [ -e "$unit" ] && [ ! -e "$manifest" ]; }; then
        lacks "another kubelet is installed (/usr/bin/kubelet or $unit)" "remove it first, with the tool that installed it"
    fi
    if [ "$(id -u)" != 0 ] && [ -z "$dry_run" ]; then
        lacks "not root" "run it as root"
    fi
}

find_binary() {
    if [ -z "$binary" ]; then
        for candidate in "$here/../kubelet" "$here/../target/dist/kubelet"; do
            if [ -f "$candidate" ] && [ -x "$candidate" ]; then
                binary=$candidate
                break
            fi
        done
    fi
    if [ -z "$binary" ]; then
        lacks "no kubelet binary beside this script" "unpack the whole archive, or make dist, or name one: --binary FILE"
    elif "$binary" --version >/dev/null 2>&1; then
        fine "$("$binary" --version | head -n 1) in $binary"
    else
        lacks "$binary does not run here" "take the archive for $(uname -m)"
    fi
}

# --- install -------------------------------------------------------------------------------------------------------------

# Notes a path in the manifest before it is made, so that whatever happens next can be undone.
note() {
    if [ -z "$dry_run" ] && ! grep -qxF "$1" "$manifest" 2>/dev/null; then
        printf '%s\n' "$1" >>"$manifest"
    fi
}

# put MODE SOURCE TARGET: by a rename, since the binary may be running.
put() {
    if [ -n "$dry_run" ]; then
        echo "would install: $3 (mode $1)"
        return
    fi
    note "file $3"
    cp "$2" "$3.new"
    chmod "$1" "$3.new"
    chown 0:0 "$3.new"
    mv "$3.new" "$3"
}

# make_directory MODE PATH: and its parents; those that were there are not noted.
make_directory() {
    [ ! -d "$2" ] || return 0
    make_directory 755 "$(dirname "$2")"
    note "directory $2"
    act mkdir "$2"
    act chmod "$1" "$2"
}

# The unit with the paths of this installation.
local_unit() {
    sed -e 's|/usr/bin/kubelet|/usr/local/bin/kubelet|' "$here/kubelet.service"
}

# put_words MODE TARGET: what comes on standard input.
put_words() {
    words=$(mktemp)
    cat >"$words"
    put "$1" "$words" "$2"
    rm -f "$words"
}

# Manual pages and completions. Those of the commands are the binary's own words: they cannot differ from what it does.
put_documentation() {
    pages=/usr/local/share/man/man8
    make_directory 755 "$pages"
    for page in "$here/kubelet.8" "$here/package/kubelet.8"; do
        if [ -e "$page" ]; then
            sed "s|/usr/share/kubelet/|$share/|" "$page" | put_words 644 "$pages/kubelet.8"
            break
        fi
    done
    for command in $("$binary" manual); do
        "$binary" manual "$command" | put_words 644 "$pages/kubelet-$command.8"
    done
    for shell in bash:bash-completion/completions/kubelet zsh:zsh/site-functions/_kubelet fish:fish/vendor_completions.d/kubelet.fish; do
        target=/usr/local/share/${shell#*:}
        make_directory 755 "${target%/*}"
        "$binary" completion "${shell%%:*}" | put_words 644 "$target"
    done
}

do_install() {
    echo "What the kubelet needs:"
    find_binary
    check_systemd
    check_runtime
    check_cgroups
    check_cni
    check_iptables
    check_swap
    check_others
    if [ "$failures" -gt 0 ]; then
        [ -n "$dry_run" ] || die "nothing was changed: $failures of these are missing"
        say "an installation would stop here: $failures of these are missing"
    fi
    upgrade=
    if [ -e "$manifest" ]; then upgrade=yes; fi
    # The new binary judges the configuration before anything is replaced: a refusal leaves the old one running.
    if [ -e "$config" ] && [ -n "$binary" ] && ! "$binary" validate --config "$config"; then
        [ -n "$dry_run" ] || die "nothing was changed: this version refuses $config, see above"
    fi

    if [ -n "$dry_run" ]; then
        echo "would install: $manifest, the list of what is installed"
    else
        # Parents that are missing on the way are noted below.
        [ -d "$share" ] || { mkdir -p "$share" && chmod 755 "$share"; }
        [ -e "$manifest" ] || : >"$manifest"
    fi
    make_directory 755 /usr/local/bin
    put 755 "${binary:-kubelet}" /usr/local/bin/kubelet
    put 755 "$here/node-config" "$share/node-config"
    put 755 "$here/stop-pods" "$share/stop-pods"
    put 755 "$here/install.sh" "$share/install.sh"
    [ -z "$binary" ] || put_documentation
    make_directory 700 /etc/kubernetes/manifests
    make_directory 700 /var/lib/kubelet
    if [ ! -e "$config" ]; then
        made=$(mktemp)
        "$here/node-config" | sed "s|/usr/share/kubelet/|$share/|" >"$made"
        put 600 "$made" "$config"
        note "unchanged $config $(sum_of "$config")"
        rm -f "$made"
    else
        say "$config is there and stays as it is"
    fi
    made=$(mktemp)
    local_unit >"$made"
    put 600 "$made" "$unit"
    rm -f "$made"

    act systemctl daemon-reload
    act systemctl enable kubelet.service
    if [ -n "$start" ]; then
        if [ -n "$upgrade" ]; then
            act systemctl restart kubelet.service
        else
            act systemctl start kubelet.service
        fi
    fi
    [ -n "$dry_run" ] || say "done. Put manifests into /etc/kubernetes/manifests; systemctl status kubelet says how it is. To undo: $share/install.sh --uninstall"
}

sum_of() {
    if [ -e "$1" ]; then cksum <"$1" | tr -d ' '; else echo 0; fi
}

# --- uninstall -----------------------------------------------------------------------------------------------------------

do_uninstall() {
    [ -e "$manifest" ] || die "there is no $manifest: nothing was installed by this script"
    if [ "$(id -u)" != 0 ] && [ -z "$dry_run" ]; then
        die "not root"
    fi
    if [ -n "$stop_pods" ]; then
        act env KUBELET=/usr/local/bin/kubelet "$share/stop-pods"
    fi
    act systemctl disable --now kubelet.service || true
    grep '^file ' "$manifest" | while read -r _ path; do
        if [ "$path" = "$config" ] && ! grep -qxF "unchanged $config $(sum_of "$config")" "$manifest"; then
            say "$config was changed and stays"
            continue
        fi
        act rm -f "$path"
    done
    # Deepest first; what has something else in it stays.
    grep '^directory ' "$manifest" | sort -r | while read -r _ path; do
        if [ -n "$dry_run" ]; then
            echo "would remove, if empty: $path"
        else
            rmdir "$path" 2>/dev/null || say "$path is not empty and stays"
        fi
    done
    act rm -f "$manifest"
    [ -n "$dry_run" ] || rmdir "$share" 2>/dev/null || true
    act systemctl daemon-reload
    if [ -n "$(find /var/lib/kubelet/pods -mindepth 1 -maxdepth 1 2>/dev/null | head -n 1)" ]; then
        say "pods keep running without their agent; their files are in /var/lib/kubelet"
    fi
}

"do_$verb"
