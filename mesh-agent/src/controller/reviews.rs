//! Token reviews of the last seconds. An agent asks for many certificates with one token, and at its start for all of
//! its node's; the API server need not look at the same token for each.

use super::decision::Caller;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// An answer is believed for this long, seconds; a token that is revoked is refused after it.
const LIFE: u64 = 10;
/// Answers that are kept at most.
const MOST: usize = 10_000;

/// Who held which token, by its hash: the tokens themselves are not kept.
#[derive(Default)]
pub struct Reviews {
    known: Mutex<HashMap<[u8; 32], (Caller, u64)>>,
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
}

impl Reviews {
    /// Who holds the token, if that was said a moment ago. `now` is seconds since the Unix epoch.
    #[must_use]
    pub fn get(&self, token: &str, now: u64) -> Option<Caller> {
        let known = self.known.lock();
        let (caller, until) = known.get(&hash(token))?;
        (now < *until).then(|| caller.clone())
    }

    /// The API server has just said that `caller` holds the token. Not kept beyond the token's own life, nor if that
    /// cannot be read.
    pub fn put(&self, token: &str, caller: &Caller, now: u64) {
        let Some(expires) = expires(token) else { return };
        let mut known = self.known.lock();
        if known.len() >= MOST {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < MOST {
            let until = expires.min(now.saturating_add(LIFE));
            known.insert(hash(token), (caller.clone(), until));
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// `exp` of a JWT whose signature somebody else has looked at.
fn expires(token: &str) -> Option<u64> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    Some(claims.exp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.signature", URL_SAFE_NO_PAD.encode(payload))
    }

    fn caller() -> Caller {
        Caller {
            namespace: "heddle-system".into(),
            service_account: "heddle-agent".into(),
            node: Some("n1".into()),
            pod: None,
        }
    }

    #[test]
    fn an_answer_is_believed_for_ten_seconds_and_for_this_very_token() {
        let (reviews, mine) = (Reviews::default(), token(r#"{"exp": 5000}"#));
        assert_eq!(reviews.get(&mine, 1_000), None);
        reviews.put(&mine, &caller(), 1_000);
        assert_eq!(reviews.get(&mine, 1_009), Some(caller()));
        assert_eq!(reviews.get(&mine, 1_010), None);
        assert_eq!(reviews.get(&token(r#"{"exp": 5001}"#), 1_001), None);
    }

    #[test]
    fn no_answer_outlives_its_token_and_what_has_no_end_is_not_kept() {
        let reviews = Reviews::default();
        let short = token(r#"{"exp": 1003}"#);
        reviews.put(&short, &caller(), 1_000);
        assert_eq!(reviews.get(&short, 1_002), Some(caller()));
        assert_eq!(reviews.get(&short, 1_003), None);
        for odd in [token("{}"), token("no JSON"), "opaque".to_owned(), String::new()] {
            reviews.put(&odd, &caller(), 1_000);
            assert_eq!(reviews.get(&odd, 1_000), None, "{odd}");
        }
    }

    #[test]
    fn a_flood_of_tokens_does_not_fill_the_memory() {
        let reviews = Reviews::default();
        for i in 0..MOST as u64 + 100 {
            reviews.put(&token(&format!(r#"{{"exp": {}}}"#, 5_000 + i)), &caller(), 1_000);
        }
        assert_eq!(reviews.known.lock().len(), MOST);
        let late = token(r#"{"exp": 1}"#).replace("signature", "late");
        reviews.put(&late, &caller(), 1_000 + LIFE);
        assert!(reviews.known.lock().len() < 2);
    }
}
