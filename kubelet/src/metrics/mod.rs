//! What the agent counts of its own work, and the text format in which it is told.
//!
//! Owns: the counters, gauges and histograms of the process ([`kubelet`]), and the Prometheus text format
//! ([`Exposition`], <https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4).
//! Inputs: calls of the rooms that do the work. Outputs: families of samples, written when somebody asks.
//! Tasks: none.
//! Deliberately not here: what containers use (`stats`), which endpoint has which family (`server`), and anything that
//! can be read when it is asked for: it is not counted, but read then.

mod certificates;
mod image_volumes;
mod instruments;
mod kubelet;
mod managers;
mod names;
mod number;
mod pod_certificates;
mod pod_resources;
mod startups;
mod text;
mod user_namespaces;

pub use certificates::Certificates;
pub use instruments::{Counter, CounterVec, GaugeVec, Histogram, HistogramVec};
pub use kubelet::{Kubelet, ProbeResult, kubelet};
pub use names::operation_of;
pub use pod_certificates::{Counted, PodCertificates, Standing};
pub use pod_resources::PodResourcesCounts;
pub use startups::{SeenRunning, Startups, startups};
pub(crate) use text::float;
pub use text::{Exposition, Family, Kind};
