//! The API server, asked without any type of its objects.

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use http::{Method, Request, Uri};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use mesh_tests::promtext::{self, Sample};
use serde_json::Value;
use std::future::Future;
use std::path::Path;
use tokio::runtime::Runtime;

/// Requests under way at once.
const PARALLEL: usize = 24;

pub(crate) struct Api {
    runtime: Runtime,
    client: Client,
    config: Config,
}

impl Api {
    pub(crate) fn connect(kubeconfig: &Path) -> Result<Self> {
        // All in one thread: the load must leave the cores to what is measured.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let file = Kubeconfig::read_from(kubeconfig)
            .with_context(|| format!("kubeconfig {}", kubeconfig.display()))?;
        let options = KubeConfigOptions::default();
        let config = runtime.block_on(Config::from_custom_kubeconfig(file, &options))?;
        let client = runtime.block_on(async { Client::try_from(config.clone()) })?;
        Ok(Self {
            runtime,
            client,
            config,
        })
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// One that shares no connection with others.
    pub(crate) fn another_client(&self) -> Result<Client> {
        let _in = self.runtime.enter();
        Ok(Client::try_from(self.config.clone())?)
    }

    pub(crate) fn get(&self, path: &str) -> Result<String> {
        self.block_on(get(&self.client, path))
    }

    pub(crate) fn get_json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.get(path)?)?)
    }

    /// What the API server says of itself.
    pub(crate) fn metrics(&self) -> Result<Vec<Sample>> {
        Ok(promtext::parse(&self.get("/metrics")?))
    }

    /// Creates objects in a collection; one that is there is left as it is.
    pub(crate) fn create_all<'a>(
        &'a self,
        objects: impl Iterator<Item = (String, Value)> + 'a,
    ) -> Result<u32> {
        let made = objects.map(|(path, object)| -> BoxFuture<'a, Result<()>> {
            let client = self.client.clone();
            Box::pin(async move {
                match send(&client, Method::POST, &path, &object).await {
                    Err(error) if is_conflict(&error) => Ok(()),
                    other => other.map(drop).with_context(|| path),
                }
            })
        });
        self.block_on(async {
            let mut made = stream::iter(made).buffer_unordered(PARALLEL);
            let mut count = 0;
            while let Some(done) = made.next().await {
                done?;
                count += 1;
                if count % 2_000 == 0 {
                    eprintln!("  {count} objects");
                }
            }
            Ok(count)
        })
    }
}

pub(crate) async fn get(client: &Client, path: &str) -> Result<String> {
    let request = Request::get(path).body(Vec::new())?;
    client
        .request_text(request)
        .await
        .with_context(|| path.to_owned())
}

pub(crate) async fn send(client: &Client, method: Method, path: &str, object: &Value) -> Result<String> {
    let request = Request::builder()
        .method(method)
        .uri(path.parse::<Uri>()?)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(object)?)?;
    Ok(client.request_text(request).await?)
}

fn is_conflict(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<kube::Error>();
    matches!(status, Some(kube::Error::Api(status)) if status.code == 409)
}
