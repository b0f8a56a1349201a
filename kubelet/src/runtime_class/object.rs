//! What is read of a RuntimeClass.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// `node.k8s.io/v1` `RuntimeClass`, without what the API server alone acts upon.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RuntimeClass {
    pub(super) metadata: ObjectMeta,
    pub(super) handler: String,
}

impl kube::Resource for RuntimeClass {
    type DynamicType = ();
    type Scope = k8s_openapi::ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "RuntimeClass".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "node.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "runtimeclasses".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
