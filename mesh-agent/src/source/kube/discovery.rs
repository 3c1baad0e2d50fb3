//! What the API server can do.

use super::kinds::Kind;
use kube::Client;
use kube::core::ApiResource;

/// Since this minor version of Kubernetes 1 an unknown `sendInitialEvents` is an answer and not silence.
const STREAMS_SINCE: u32 = 30;

/// Whether lists may be asked for as the beginning of a watch. A server that has that switched off says so then.
pub(super) async fn streams_lists(client: &Client) -> bool {
    let Ok(version) = client.apiserver_version().await else {
        return false;
    };
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    version.major == "1" && digits.parse::<u32>().is_ok_and(|minor| minor >= STREAMS_SINCE)
}

/// The best version of a kind that the server serves; `None` if it serves none.
///
/// # Errors
/// No answer, or one that does not say.
pub(super) async fn served(client: &Client, kind: &Kind) -> Result<Option<ApiResource>, kube::Error> {
    for version in kind.versions {
        match client.list_api_group_resources(&kind.api_version(version)).await {
            Ok(list) if list.resources.iter().any(|r| r.name == kind.plural) => {
                return Ok(Some(kind.resource(version)));
            }
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
