//! What of the suite is run, and what it is told that Heddle can do.

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

/// The suite's tests of routes on Services, or those of routes on Gateways. Each is a run, and a report, of its own:
/// a gateway that does not get ready would end the mesh's tests before they start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Mesh,
    Gateway,
}

impl Part {
    /// As files and flags call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Gateway => "gateway",
        }
    }

    /// Whose test that is; the suite names those of the mesh so.
    pub(crate) fn of_test(name: &str) -> Self {
        if name.starts_with("Mesh") {
            Self::Mesh
        } else {
            Self::Gateway
        }
    }

    fn profiles(self) -> &'static [&'static str] {
        match self {
            Self::Mesh => &["MESH-HTTP", "MESH-GRPC"],
            Self::Gateway => &["GATEWAY-HTTP", "GATEWAY-GRPC", "GATEWAY-TLS"],
        }
    }

    /// Features beyond the core of the profiles, which the suite adds by itself.
    fn features(self) -> Vec<&'static str> {
        match self {
            Self::Mesh => MESH.to_vec(),
            Self::Gateway => {
                let more = |name: &&str| !GATEWAY_CORE.contains(name) && *name != STATIC_ADDRESSES;
                GATEWAY.lines().filter(more).collect()
            }
        }
    }

    fn experimental(self) -> &'static [&'static str] {
        match self {
            Self::Mesh => &[],
            Self::Gateway => GATEWAY_EXPERIMENTAL,
        }
    }
}

/// The last five are of no mesh profile, so no report counts the tests that need them. They are run all the same.
const MESH: &[&str] = &[
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
];

/// What Gateways of class `heddle` say of themselves (`GatewayClass.status.supportedFeatures`).
const GATEWAY: &str = include_str!("../../../mesh-agent/core/fields/gateway-features.txt");

/// Of these the core of the profiles, which the suite adds by itself.
const GATEWAY_CORE: &[&str] = &["GRPCRoute", "Gateway", "HTTPRoute", "ReferenceGrant", "TLSRoute"];

/// Of the experimental channel's CRDs.
const GATEWAY_EXPERIMENTAL: &[&str] = &[
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
];

/// Its test wants an address that a Gateway can have, and one that it cannot.
const STATIC_ADDRESSES: &str = "GatewayStaticAddresses";

/// A choice of tests.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Choice {
    /// Runs these tests and no others (also: A,B,C).
    #[arg(long = "run-test", value_name = "TEST", value_delimiter = ',')]
    pub(crate) tests: Vec<String>,
    /// Runs these profiles instead of MESH-HTTP, MESH-GRPC, GATEWAY-HTTP, GATEWAY-GRPC and GATEWAY-TLS.
    #[arg(long, value_delimiter = ',')]
    pub(crate) profiles: Vec<String>,
    /// Runs the tests of one part only.
    #[arg(long, value_enum)]
    pub(crate) only: Option<Part>,
    /// Features to be tested beyond the core of the profiles, instead of all that Heddle claims.
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    pub(crate) supported_features: Vec<String>,
    /// The CRDs and features of the experimental channel.
    #[arg(long)]
    pub(crate) experimental: bool,
    /// An address that a Gateway can be given, for GatewayStaticAddresses; known of the cluster that is made for the run.
    #[arg(long, value_name = "ADDRESS", requires = "unusable_address")]
    pub(crate) usable_address: Option<String>,
    /// An address that no Gateway can have, for GatewayStaticAddresses.
    #[arg(long, value_name = "ADDRESS", requires = "usable_address")]
    pub(crate) unusable_address: Option<String>,
}

impl Choice {
    /// The API's release channel.
    pub(crate) fn channel(&self) -> &'static str {
        if self.experimental {
            "experimental"
        } else {
            "standard"
        }
    }

    /// The runs that it takes.
    ///
    /// # Errors
    /// What is asked for is in none of them.
    pub(crate) fn runs(&self) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        for part in [Part::Mesh, Part::Gateway] {
            let tests = self.tests.iter().filter(|test| Part::of_test(test) == part);
            let tests: Vec<String> = tests.cloned().collect();
            let profiles = self.profiles_of(part)?;
            let wanted = self.only.is_none_or(|only| only == part)
                && (self.tests.is_empty() || !tests.is_empty())
                && !profiles.is_empty();
            if wanted {
                runs.push(Run {
                    part,
                    tests,
                    profiles,
                    features: self.features_of(part),
                });
            }
        }
        let left = |test: &&String| !runs.iter().any(|run| run.tests.contains(test));
        if let Some(test) = self.tests.iter().find(left) {
            let part = Part::of_test(test).name();
            bail!("--run-test {test}: a test of the {part} part, which --only or --profiles leaves out");
        }
        ensure!(!runs.is_empty(), "--only and --profiles leave nothing to run");
        Ok(runs)
    }

    fn profiles_of(&self, part: Part) -> Result<Vec<String>> {
        if self.profiles.is_empty() {
            return Ok(part.profiles().iter().map(|&name| name.to_owned()).collect());
        }
        let mut found = Vec::new();
        for profile in &self.profiles {
            let profile = profile.to_uppercase();
            let of = match profile.split_once('-') {
                Some(("MESH", _)) => Part::Mesh,
                Some(("GATEWAY", _)) => Part::Gateway,
                _ => bail!("--profiles {profile}: profiles are called MESH-… or GATEWAY-…"),
            };
            if of == part {
                found.push(profile);
            }
        }
        Ok(found)
    }

    fn features_of(&self, part: Part) -> Vec<String> {
        if !self.supported_features.is_empty() {
            return self.supported_features.clone();
        }
        let mut features = part.features();
        if self.experimental {
            features.extend(part.experimental());
        }
        if part == Part::Gateway && self.usable_address.is_some() {
            features.push(STATIC_ADDRESSES);
        }
        features.into_iter().map(str::to_owned).collect()
    }
}

/// One run of the suite.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) part: Part,
    /// Empty: all that profiles and features ask for.
    pub(crate) tests: Vec<String>,
    pub(crate) profiles: Vec<String>,
    pub(crate) features: Vec<String>,
}

impl Run {
    /// The suite's flags that say what to test.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("-conformance-profiles={}", self.profiles.join(",")),
            format!("-supported-features={}", self.features.join(",")),
        ];
        if !self.tests.is_empty() {
            // The suite's own flag takes one test, and runs it without asking for its features.
            flags.push(format!(
                "-test.run=^TestConformance$/^({})$",
                self.tests.join("|")
            ));
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::{Choice, Part};

    fn parts(choice: &Choice) -> Vec<Part> {
        choice.runs().unwrap().iter().map(|run| run.part).collect()
    }

    #[test]
    fn everything_is_run_unless_something_is_chosen() {
        assert_eq!(parts(&Choice::default()), [Part::Mesh, Part::Gateway]);
        let only = Choice {
            only: Some(Part::Mesh),
            ..Choice::default()
        };
        assert_eq!(parts(&only), [Part::Mesh]);
        let profile = Choice {
            profiles: vec!["gateway-tcp".to_owned()],
            ..Choice::default()
        };
        let runs = profile.runs().unwrap();
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].profiles, ["GATEWAY-TCP"]);
    }

    #[test]
    fn tests_go_to_the_part_that_they_are_of() {
        let choice = Choice {
            tests: ["MeshBasic", "MeshPorts", "HTTPRouteCORS"]
                .map(str::to_owned)
                .into(),
            ..Choice::default()
        };
        let runs = choice.runs().unwrap();
        assert_eq!(runs[0].tests, ["MeshBasic", "MeshPorts"]);
        assert_eq!(runs[1].tests, ["HTTPRouteCORS"]);
        let filter = "-test.run=^TestConformance$/^(MeshBasic|MeshPorts)$".to_owned();
        assert!(runs[0].flags().contains(&filter), "{:?}", runs[0].flags());
    }

    #[test]
    fn a_test_or_profile_that_nothing_would_run_is_an_error_and_not_a_success() {
        let mut choice = Choice {
            tests: vec!["MeshBasic".to_owned()],
            only: Some(Part::Gateway),
            ..Choice::default()
        };
        assert!(choice.runs().unwrap_err().to_string().contains("MeshBasic"));
        choice.tests.clear();
        choice.profiles = vec!["MESH-HTTP".to_owned()];
        assert!(choice.runs().is_err());
        choice.profiles = vec!["HTTP".to_owned()];
        assert!(choice.runs().unwrap_err().to_string().contains("HTTP"));
    }

    #[test]
    fn static_addresses_are_tested_only_with_addresses() {
        let mut choice = Choice::default();
        let asked = |choice: &Choice| {
            choice.runs().unwrap()[1]
                .flags()
                .join(" ")
                .contains("StaticAddresses")
        };
        assert!(!asked(&choice));
        choice.usable_address = Some("172.30.0.11".to_owned());
        assert!(asked(&choice));
    }
}
