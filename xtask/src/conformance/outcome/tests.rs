use super::{News, Outcome, Verdict};
use crate::conformance::plan::Part;
use serde_json::json;
use std::time::Duration;

fn feed(outcome: &mut Outcome, events: &[(&str, &str, &str)]) -> Vec<News> {
    let mut news = Vec::new();
    for (second, (action, test, output)) in events.iter().enumerate() {
        let event = json!({ "Action": action, "Test": test, "Output": output }).to_string();
        news.extend(outcome.take(&event, Duration::from_secs(second as u64)));
    }
    news
}

const TEST: &str = "TestConformance/MeshTrafficSplit";
const CHECK: &str = "TestConformance/MeshTrafficSplit/1_request_to_'/v2'";

#[test]
fn a_failed_test_says_which_of_its_checks_failed_and_what_it_saw_last() {
    let mut outcome = Outcome::new(Part::Mesh);
    let news = feed(
        &mut outcome,
        &[
            ("run", TEST, ""),
            ("run", CHECK, ""),
            (
                "output",
                CHECK,
                "    pod.go:70: 2026-11-21T10:52:29.670054043Z: Got resp RawContent: [0] Url=x\n",
            ),
            ("output", CHECK, "        [0] StatusCode=200\n"),
            (
                "output",
                CHECK,
                "    pod.go:72: 2026-11-21T10:52:29.670178969Z: Response expectation failed for request: [client x]  not ready yet: wanted status code to be one of [404], got 200 (after 28.5s)\n",
            ),
            (
                "output",
                CHECK,
                "    pod.go:70: 2026-11-21T10:52:30.9Z: Got resp RawContent: [0] Url=x\n",
            ),
            (
                "output",
                CHECK,
                "    http.go:306: 2026-11-21T10:52:31.050180205Z: timeout while waiting after 28 attempts, 0/3 successes\n",
            ),
            ("fail", CHECK, ""),
            (
                "output",
                TEST,
                "    apply.go:279: 2026-11-21T10:52:31.050270239Z: Deleting mesh-split HTTPRoute\n",
            ),
            ("fail", TEST, ""),
        ],
    );
    let [News::Done(test)] = news.as_slice() else {
        panic!("{news:?}");
    };
    assert_eq!(
        (test.name.as_str(), test.verdict),
        ("MeshTrafficSplit", Verdict::Failed)
    );
    assert!((test.seconds - 9.0).abs() < 0.1, "{}", test.seconds);
    assert_eq!(
        test.why,
        ["1_request_to_'/v2': wanted status code to be one of [404], got 200 (after 28.5s)"]
    );
}

#[test]
fn a_failed_assertion_is_shown_with_its_error_and_not_with_its_trace() {
    let mut outcome = Outcome::new(Part::Gateway);
    let test = "TestConformance/HTTPRouteCORS";
    let news = feed(
        &mut outcome,
        &[
            ("output", test, "    helpers.go:232: \n"),
            ("output", test, "        \tError Trace:\t/go/helpers.go:232\n"),
            (
                "output",
                test,
                "        \tError:      \tReceived unexpected error:\n",
            ),
            (
                "output",
                test,
                "        \t            \tcontext deadline exceeded\n",
            ),
            (
                "output",
                test,
                "        \tTest:       \tTestConformance/HTTPRouteCORS\n",
            ),
            ("fail", test, ""),
        ],
    );
    let [News::Done(done)] = news.as_slice() else {
        panic!("{news:?}");
    };
    assert_eq!(done.why, ["Received unexpected error: context deadline exceeded"]);
}

#[test]
fn shares_that_were_right_only_at_a_later_try_are_not_passed_over() {
    let mut outcome = Outcome::new(Part::Mesh);
    let line = "    httproute-weight.go:76: Traffic distribution test failed (1/10): backend \"echo-v1\"\n";
    feed(
        &mut outcome,
        &[
            ("run", TEST, ""),
            ("output", CHECK, line),
            ("pass", CHECK, ""),
            ("pass", TEST, ""),
        ],
    );
    assert_eq!(outcome.tests[0].verdict, Verdict::Passed);
    assert_eq!(
        outcome.tests[0].why,
        ["1 times the shares were wrong before they were right"]
    );
}

#[test]
fn tests_of_the_other_part_and_checks_are_not_counted() {
    let mut outcome = Outcome::new(Part::Mesh);
    feed(
        &mut outcome,
        &[
            ("skip", "TestConformance/HTTPRouteCORS", ""),
            ("pass", "TestConformance/MeshBasic/check", ""),
            ("pass", "TestConformance/MeshBasic", ""),
            ("skip", "TestConformance/MeshPorts", ""),
            ("pass", "TestConformance", ""),
        ],
    );
    let counts = [Verdict::Passed, Verdict::Failed, Verdict::Skipped].map(|verdict| outcome.count(verdict));
    assert_eq!(counts, [1, 0, 1]);
    assert!(
        outcome
            .to_string()
            .ends_with("mesh: 1 passed, 0 failed, 1 skipped"),
        "{outcome}"
    );
}

#[test]
fn what_the_suite_says_before_it_gives_up_is_kept() {
    let mut outcome = Outcome::new(Part::Gateway);
    let news = feed(
        &mut outcome,
        &[
            ("output", "TestConformance", "=== RUN   TestConformance\n"),
            (
                "output",
                "TestConformance",
                "    suite.go:381: 2026-11-21T10:51:57.1Z: Test Setup: Ensuring GatewayClass has been accepted\n",
            ),
            (
                "output",
                "TestConformance",
                "        \tError:      \tcontext deadline exceeded\n",
            ),
            (
                "output",
                "TestConformance",
                "    conformance.go:158: Conformance report:\n",
            ),
            ("output", "TestConformance", "        profiles: null\n"),
            ("fail", "TestConformance", ""),
        ],
    );
    assert_eq!(
        news,
        [News::Setup("Ensuring GatewayClass has been accepted".to_owned())]
    );
    assert_eq!(outcome.own.len(), 2);
    outcome.take("nsenter: no such process", Duration::ZERO);
    assert_eq!(
        outcome.own.last().map(String::as_str),
        Some("nsenter: no such process")
    );
}
