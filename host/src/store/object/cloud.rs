//! The client of the cloud that a URL names, set up from the environment.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ClientConfigKey, RetryConfig};

use super::address::{Address, Cloud};
use super::transport::Connector;
use crate::store::remote::{ConnectError, client_config};

/// Sets up the client of an address, which may get its endpoint here.
pub(super) fn client(
    address: &mut Address,
    variables: impl Iterator<Item = (String, String)>,
    retry: RetryConfig,
) -> Result<Arc<dyn object_store::ObjectStore>, ConnectError> {
    let mut variables: Vec<_> =
        variables.filter(|(name, _)| name.starts_with(address.cloud.variables())).collect();
    variables.sort();
    // In this order, the variable for S3 alone is before the one for all services of Amazon.
    for (name, value) in variables.iter().rev() {
        if is_endpoint(name) {
            address.set_default_endpoint(name, value)?;
        } else if name.ends_with("_ALLOW_HTTP") && value == "true" {
            address.allow_http = true;
        } else if name == "AZURE_STORAGE_USE_EMULATOR" && value == "true" {
            return Err(setup(
                address,
                "AZURE_STORAGE_USE_EMULATOR is not supported. Name the emulator in the URL: \
                 ?endpoint=http://127.0.0.1:10000/devstoreaccount1, with its account and key in \
                 AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
            ));
        }
    }
    address.check_encryption()?;
    let tls = client_config(address.ca.as_deref(), None).map_err(|reason| setup(address, &reason))?;
    let allow_http = address.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http");
    let connector = Connector { tls, allow_http, is_loopback: address.is_loopback() };
    let client: object_store::Result<Arc<dyn object_store::ObjectStore>> = match address.cloud {
        Cloud::S3 => s3(address, &variables, connector, retry),
        Cloud::Google => google(address, &variables, connector, retry),
        Cloud::Azure => azure(address, &variables, connector, retry),
    };
    client.map_err(|error| {
        let reason = format!("{error}. Check the variables {}…", address.cloud.variables());
        setup(address, &reason)
    })
}

fn setup(address: &Address, reason: &str) -> ConnectError {
    ConnectError::Setup { address: address.text.clone(), reason: reason.to_owned() }
}

fn is_endpoint(name: &str) -> bool {
    matches!(
        name,
        "AWS_ENDPOINT"
            | "AWS_ENDPOINT_URL"
            | "AWS_ENDPOINT_URL_S3"
            | "AZURE_ENDPOINT"
            | "AZURE_STORAGE_ENDPOINT"
            | "GOOGLE_BASE_URL"
    )
}

fn endpoint(address: &Address) -> Option<&str> {
    address.endpoint.as_ref().map(|endpoint| endpoint.as_str().trim_end_matches('/'))
}

fn s3(
    address: &Address,
    variables: &[(String, String)],
    connector: Connector,
    retry: RetryConfig,
) -> object_store::Result<Arc<dyn object_store::ObjectStore>> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in variables {
        match name.to_ascii_lowercase().parse() {
            // Set below, or by the URL alone.
            Ok(
                AmazonS3ConfigKey::Bucket
                | AmazonS3ConfigKey::ConditionalPut
                | AmazonS3ConfigKey::Endpoint
                | AmazonS3ConfigKey::S3Endpoint
                | AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp),
            )
            | Err(_) => {}
            Ok(key) => builder = builder.with_config(key, value),
        }
    }
    if let Some(endpoint) = endpoint(address) {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &address.region {
        builder = builder.with_region(region);
    }
    let client = builder
        .with_bucket_name(&address.bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // Not every engine can delete several objects at once.
        .with_disable_bulk_delete(true)
        .with_allow_http(connector.allow_http)
        .with_http_connector(connector)
        .with_retry(retry)
        .build()?;
    Ok(Arc::new(client))
}

fn google(
    address: &Address,
    variables: &[(String, String)],
    connector: Connector,
    retry: RetryConfig,
) -> object_store::Result<Arc<dyn object_store::ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in variables {
        match name.to_ascii_lowercase().parse() {
            Ok(
                GoogleConfigKey::Bucket
                | GoogleConfigKey::BaseUrl
                | GoogleConfigKey::Client(ClientConfigKey::AllowHttp),
            )
            | Err(_) => {}
            Ok(key) => builder = builder.with_config(key, value),
        }
    }
    if let Some(endpoint) = endpoint(address) {
        builder = builder.with_config(GoogleConfigKey::BaseUrl, endpoint);
    }
    let client = builder
        .with_bucket_name(&address.bucket)
        .with_config(GoogleConfigKey::Client(ClientConfigKey::AllowHttp), connector.allow_http.to_string())
        .with_http_connector(connector)
        .with_retry(retry)
        .build()?;
    Ok(Arc::new(client))
}

fn azure(
    address: &Address,
    variables: &[(String, String)],
    connector: Connector,
    retry: RetryConfig,
) -> object_store::Result<Arc<dyn object_store::ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in variables {
        match name.to_ascii_lowercase().parse() {
            Ok(
                AzureConfigKey::ContainerName
                | AzureConfigKey::Endpoint
                | AzureConfigKey::UseEmulator
                | AzureConfigKey::Client(ClientConfigKey::AllowHttp),
            )
            | Err(_) => {}
            Ok(key) => builder = builder.with_config(key, value),
        }
    }
    if let Some(endpoint) = endpoint(address) {
        builder = builder.with_endpoint(endpoint.to_owned());
    }
    let client = builder
        .with_container_name(&address.bucket)
        .with_allow_http(connector.allow_http)
        .with_http_connector(connector)
        .with_retry(retry)
        .build()?;
    Ok(Arc::new(client))
}
