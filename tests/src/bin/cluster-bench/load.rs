//! Fills the API server.

use crate::api::Api;
use crate::objects::{Mesh, in_the_mesh, namespace};
use anyhow::Result;
use std::time::Instant;

pub(crate) struct Loaded {
    pub(crate) objects: u32,
    pub(crate) rate: f64,
}

/// Templates before slices: no agent ever sees an endpoint of which it does not know whose it is.
pub(crate) fn load(api: &Api, mesh: &Mesh) -> Result<Loaded> {
    let start = Instant::now();
    let namespaces = mesh
        .namespaces()
        .map(|name| ("/api/v1/namespaces".to_owned(), in_the_mesh(&name)));
    let mut objects = api.create_all(namespaces)?;
    let templates = (0..mesh.services).map(|service| {
        let group = "/apis/mesh.heddle.io/v1alpha1/namespaces";
        let path = format!("{group}/{}/workloadtemplates", namespace(service));
        (path, mesh.template(service))
    });
    objects += api.create_all(templates)?;
    let services = (0..mesh.services).map(|service| {
        let path = format!("/api/v1/namespaces/{}/services", namespace(service));
        (path, mesh.service(service))
    });
    objects += api.create_all(services)?;
    let slices = (0..mesh.services).map(|service| {
        let group = "/apis/discovery.k8s.io/v1/namespaces";
        let path = format!("{group}/{}/endpointslices", namespace(service));
        (path, mesh.slice(service, |_| false))
    });
    objects += api.create_all(slices)?;
    Ok(Loaded {
        objects,
        rate: f64::from(objects) / start.elapsed().as_secs_f64(),
    })
}

/// Takes it out again, without waiting.
pub(crate) fn unload(api: &Api, mesh: &Mesh) {
    for namespace in mesh.namespaces() {
        let path = format!("/api/v1/namespaces/{namespace}");
        let gone = http::Request::delete(path).body(Vec::new()).map(|request| {
            let client = api.client();
            api.block_on(async move { client.request_text(request).await })
        });
        if !matches!(gone, Ok(Ok(_))) {
            eprintln!("  namespace {namespace} could not be deleted");
        }
    }
}
