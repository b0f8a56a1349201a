//! Every family that a cgroup has samples of, and how they come of it. Names and help are cAdvisor's.

use super::{Emit, whole};
use crate::metrics::{Family, float};

/// By name.
#[rustfmt::skip]
pub(super) const FAMILIES: &[(Family, Emit)] = &[
    (Family::counter("container_cpu_cfs_burst_periods_total",
        "Number of periods when burst occurs."),
        |out, row| row.throttling(out, |cpu| float(cpu.throttling.bursts))),
    (Family::counter("container_cpu_cfs_burst_seconds_total",
        "Total time duration the container has been bursted."),
        |out, row| row.throttling(out, |cpu| float(cpu.throttling.burst_nanos) / 1e9)),
    (Family::counter("container_cpu_cfs_periods_total",
        "Number of elapsed enforcement period intervals."),
        |out, row| row.throttling(out, |cpu| float(cpu.throttling.periods))),
    (Family::counter("container_cpu_cfs_throttled_periods_total",
        "Number of throttled period intervals."),
        |out, row| row.throttling(out, |cpu| float(cpu.throttling.throttled_periods))),
    (Family::counter("container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled."),
        |out, row| row.throttling(out, |cpu| float(cpu.throttling.throttled_nanos) / 1e9)),
    (Family::counter("container_cpu_system_seconds_total",
        "Cumulative system cpu time consumed in seconds."),
        |out, row| row.cpu(out, &[], |cpu| cpu.system_nanos)),
    (Family::counter("container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed in seconds."),
        |out, row| row.cpu(out, &[("cpu", "total")], |cpu| cpu.usage_nanos)),
    (Family::counter("container_cpu_user_seconds_total",
        "Cumulative user cpu time consumed in seconds."),
        |out, row| row.cpu(out, &[], |cpu| cpu.user_nanos)),
    (Family::gauge("container_file_descriptors",
        "Number of open file descriptors for the container."),
        |out, row| {
            if let Some(files) = row.level.processes.and_then(|processes| processes.files) {
                row.timed(out, &[], float(files));
            }
        }),
    (Family::gauge("container_fs_inodes_free",
        "Number of available Inodes"),
        |out, row| row.devices(out, |device| float(device.file_system.inodes_free))),
    (Family::gauge("container_fs_inodes_total",
        "Number of Inodes"),
        |out, row| row.devices(out, |device| float(device.file_system.inodes))),
    (Family::gauge("container_fs_io_current",
        "Number of I/Os currently in progress"),
        |out, row| row.devices(out, |device| float(device.counts.current))),
    (Family::counter("container_fs_io_time_seconds_total",
        "Cumulative count of seconds spent doing I/Os"),
        |out, row| row.devices(out, |device| float(device.counts.busy_millis) / 1e3)),
    (Family::counter("container_fs_io_time_weighted_seconds_total",
        "Cumulative weighted I/O time in seconds"),
        |out, row| row.devices(out, |device| float(device.counts.weighted_millis) / 1e3)),
    (Family::gauge("container_fs_limit_bytes",
        "Number of bytes that can be consumed by the container on this filesystem."),
        |out, row| row.devices(out, |device| float(device.file_system.capacity))),
    (Family::counter("container_fs_read_seconds_total",
        "Cumulative count of seconds spent reading"),
        |out, row| row.devices(out, |device| float(device.counts.reads[3]) / 1e3)),
    (Family::counter("container_fs_reads_bytes_total",
        "Cumulative count of bytes read"),
        |out, row| {
            for disk in &row.level.numbers.disks {
                let more = [("device", disk.device.as_str())];
                row.timed(out, &more, float(disk.read_bytes));
            }
        }),
    (Family::counter("container_fs_reads_merged_total",
        "Cumulative count of reads merged"),
        |out, row| row.devices(out, |device| float(device.counts.reads[1]))),
    (Family::counter("container_fs_reads_total",
        "Cumulative count of reads completed"),
        |out, row| {
            row.disks(out, |disk| disk.reads);
            row.devices(out, |device| float(device.counts.reads[0]));
        }),
    (Family::counter("container_fs_sector_reads_total",
        "Cumulative count of sector reads completed"),
        |out, row| row.devices(out, |device| float(device.counts.reads[2]))),
    (Family::counter("container_fs_sector_writes_total",
        "Cumulative count of sector writes completed"),
        |out, row| row.devices(out, |device| float(device.counts.writes[2]))),
    (Family::gauge("container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem."),
        |out, row| row.devices(out, |device| float(device.file_system.used))),
    (Family::counter("container_fs_write_seconds_total",
        "Cumulative count of seconds spent writing"),
        |out, row| row.devices(out, |device| float(device.counts.writes[3]) / 1e3)),
    (Family::counter("container_fs_writes_bytes_total",
        "Cumulative count of bytes written"),
        |out, row| {
            for disk in &row.level.numbers.disks {
                let more = [("device", disk.device.as_str())];
                row.timed(out, &more, float(disk.written_bytes));
            }
        }),
    (Family::counter("container_fs_writes_merged_total",
        "Cumulative count of writes merged"),
        |out, row| row.devices(out, |device| float(device.counts.writes[1]))),
    (Family::counter("container_fs_writes_total",
        "Cumulative count of writes completed"),
        |out, row| {
            row.disks(out, |disk| disk.writes);
            row.devices(out, |device| float(device.counts.writes[0]));
        }),
    (Family::gauge("container_last_seen",
        "Last time a container was seen by the exporter"),
        |out, row| row.timed(out, &[], whole(row.at().as_second()))),
    (Family::gauge("container_memory_cache",
        "Number of bytes of page cache memory."),
        |out, row| row.memory(out, |memory| memory.cache)),
    (Family::counter("container_memory_failcnt",
        "Number of memory usage hits limits"),
        |out, row| row.memory(out, |memory| memory.limit_hits)),
    (Family::counter("container_memory_failures_total",
        "Cumulative count of memory allocation failures."),
        |out, row| {
            let Some(memory) = &row.level.numbers.memory else {
                return;
            };
            for (kind, count) in [
                ("pgfault", memory.faults),
                ("pgmajfault", memory.major_faults),
            ] {
                for scope in ["container", "hierarchy"] {
                    row.timed(
                        out,
                        &[("failure_type", kind), ("scope", scope)],
                        float(count),
                    );
                }
            }
        }),
    (Family::gauge("container_memory_kernel_usage",
        "Size of kernel memory allocated in bytes."),
        |out, row| row.memory(out, |memory| memory.kernel)),
    (Family::gauge("container_memory_mapped_file",
        "Size of memory mapped files in bytes."),
        |out, row| row.memory(out, |memory| memory.mapped)),
    (Family::gauge("container_memory_max_usage_bytes",
        "Maximum memory usage recorded in bytes"),
        |out, row| row.memory(out, |memory| memory.most)),
    (Family::gauge("container_memory_rss",
        "Size of RSS in bytes."),
        |out, row| row.memory(out, |memory| memory.rss)),
    (Family::gauge("container_memory_swap",
        "Container swap usage in bytes."),
        |out, row| row.memory(out, |memory| memory.swap)),
    (Family::gauge("container_memory_total_active_file_bytes",
        "Current total active file in bytes."),
        |out, row| row.memory(out, |memory| memory.active_file)),
    (Family::gauge("container_memory_total_inactive_file_bytes",
        "Current total inactive file in bytes."),
        |out, row| row.memory(out, |memory| memory.inactive_file)),
    (Family::gauge("container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed"),
        |out, row| row.memory(out, |memory| memory.usage)),
    (Family::gauge("container_memory_working_set_bytes",
        "Current working set in bytes."),
        |out, row| row.memory(out, |memory| memory.working_set)),
    (Family::counter("container_network_receive_bytes_total",
        "Cumulative count of bytes received"),
        |out, row| row.interfaces(out, |interface| interface.received.bytes)),
    (Family::counter("container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving"),
        |out, row| row.interfaces(out, |interface| interface.received.errors)),
    (Family::counter("container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving"),
        |out, row| row.interfaces(out, |interface| interface.received.dropped)),
    (Family::counter("container_network_receive_packets_total",
        "Cumulative count of packets received"),
        |out, row| row.interfaces(out, |interface| interface.received.packets)),
    (Family::counter("container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted"),
        |out, row| row.interfaces(out, |interface| interface.sent.bytes)),
    (Family::counter("container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting"),
        |out, row| row.interfaces(out, |interface| interface.sent.errors)),
    (Family::counter("container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting"),
        |out, row| row.interfaces(out, |interface| interface.sent.dropped)),
    (Family::counter("container_network_transmit_packets_total",
        "Cumulative count of packets transmitted"),
        |out, row| row.interfaces(out, |interface| interface.sent.packets)),
    (Family::counter("container_oom_events_total",
        "Count of out of memory events observed for the container"),
        |out, row| row.memory(out, |memory| memory.oom_kills)),
    (Family::counter("container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion."),
        |out, row| row.pressure(out, |pressure| pressure.cpu.full)),
    (Family::counter("container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion."),
        |out, row| row.pressure(out, |pressure| pressure.cpu.some)),
    (Family::counter("container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion."),
        |out, row| row.pressure(out, |pressure| pressure.io.full)),
    (Family::counter("container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion."),
        |out, row| row.pressure(out, |pressure| pressure.io.some)),
    (Family::counter("container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion."),
        |out, row| row.pressure(out, |pressure| pressure.memory.full)),
    (Family::counter("container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion."),
        |out, row| row.pressure(out, |pressure| pressure.memory.some)),
    (Family::gauge("container_processes",
        "Number of processes running inside the container."),
        |out, row| {
            if let Some(processes) = row.level.processes {
                row.timed(out, &[], float(processes.count));
            }
        }),
    (Family::gauge("container_sockets",
        "Number of open sockets for the container."),
        |out, row| {
            if let Some(sockets) = row.level.processes.and_then(|processes| processes.sockets) {
                row.timed(out, &[], float(sockets));
            }
        }),
    (Family::gauge("container_spec_cpu_period",
        "CPU period of the container."),
        |out, row| {
            let cpu = row.level.numbers.cpu.as_ref();
            if let Some(period) = cpu.and_then(|cpu| cpu.period_micros) {
                row.plain(out, float(period));
            }
        }),
    (Family::gauge("container_spec_cpu_quota",
        "CPU quota of the container."),
        |out, row| {
            let cpu = row.level.numbers.cpu.as_ref();
            if let Some(quota) = cpu.and_then(|cpu| cpu.quota_micros) {
                row.plain(out, float(quota));
            }
        }),
    (Family::gauge("container_spec_cpu_shares",
        "CPU share of the container."),
        |out, row| {
            let cpu = row.level.numbers.cpu.as_ref();
            if let Some(shares) = cpu.and_then(|cpu| cpu.shares) {
                row.plain(out, float(shares));
            }
        }),
    (Family::gauge("container_spec_memory_limit_bytes",
        "Memory limit for the container."),
        |out, row| match row.machine_memory {
            Some(bytes) => row.plain(out, float(bytes)),
            None => row.limit(out, |memory| memory.limit),
        }),
    (Family::gauge("container_spec_memory_reservation_limit_bytes",
        "Memory reservation limit for the container."),
        |out, row| row.limit(out, |memory| memory.reservation)),
    (Family::gauge("container_spec_memory_swap_limit_bytes",
        "Memory swap limit for the container."),
        |out, row| row.limit(out, |memory| memory.swap_limit)),
    (Family::gauge("container_start_time_seconds",
        "Start time of the container since unix epoch in seconds."),
        |out, row| {
            if let Some(made_at) = row.made_at {
                row.plain(out, whole(made_at));
            }
        }),
    (Family::gauge("container_threads",
        "Number of threads running inside the container"),
        |out, row| {
            if let Some(threads) = row.level.numbers.threads {
                row.timed(out, &[], float(threads));
            }
        }),
    (Family::gauge("container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero"),
        |out, row| {
            if row.level.numbers.threads.is_some() {
                let most = row.level.numbers.threads_most.unwrap_or(0);
                row.timed(out, &[], float(most));
            }
        }),
    (Family::gauge("container_ulimits_soft",
        "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice"),
        |out, row| {
            let limit = row
                .level
                .processes
                .and_then(|processes| processes.files_limit);
            if let Some(limit) = limit {
                row.timed(out, &[("ulimit", "max_open_files")], whole(limit));
            }
        }),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_in_order_of_their_names() {
        let names: Vec<&str> = FAMILIES.iter().map(|(family, _)| family.name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names, sorted);
    }
}
