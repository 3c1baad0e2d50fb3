//! The corpus of request heads that readers disagree on, end to end: what the upstream receives parses to exactly
//! the requests that the proxy served.

use super::mesh::{Mesh, Seen, ok, web};

/// Name, bytes, status of the answer, requests that reach the upstream.
const CORPUS: &[(&str, &str, &str, usize)] = &[
    (
        "plain",
        "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n",
        "200",
        1,
    ),
    ("no host", "GET / HTTP/1.1\r\n\r\n", "400", 0),
    (
        "two hosts",
        "GET / HTTP/1.1\r\nHost: web\r\nHost: web\r\n\r\n",
        "400",
        0,
    ),
    (
        "absolute target, other host",
        "GET http://other/ HTTP/1.1\r\nHost: web\r\n\r\n",
        "400",
        0,
    ),
    (
        "absolute target, same host",
        "GET http://web/x HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n",
        "200",
        1,
    ),
    ("fragment", "GET /#x HTTP/1.1\r\nHost: web\r\n\r\n", "400", 0),
    ("userinfo", "GET / HTTP/1.1\r\nHost: me@web\r\n\r\n", "400", 0),
    ("bad port", "GET / HTTP/1.1\r\nHost: web:x\r\n\r\n", "400", 0),
    (
        "large port",
        "GET / HTTP/1.1\r\nHost: web:70000\r\n\r\n",
        "400",
        0,
    ),
    (
        "gzip, chunked",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "501",
        0,
    ),
    (
        "two encodings",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "501",
        0,
    ),
    (
        "encoding with VT",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "501",
        0,
    ),
    (
        "encoding in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "501",
        0,
    ),
    (
        "length and encoding",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
        "400",
        0,
    ),
    (
        "equal lengths",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "400",
        0,
    ),
    (
        "other lengths",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        "400",
        0,
    ),
    (
        "length list",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3, 3\r\n\r\nabc",
        "400",
        0,
    ),
    (
        "signed length",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: +3\r\n\r\nabc",
        "400",
        0,
    ),
    (
        "hex length",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0x3\r\n\r\nabc",
        "400",
        0,
    ),
    ("bare LF", "GET / HTTP/1.1\nHost: web\n\n", "400", 0),
    (
        "bare LF inside",
        "GET / HTTP/1.1\r\nHost: web\nX: y\r\n\r\n",
        "400",
        0,
    ),
    (
        "bare CR",
        "GET / HTTP/1.1\r\nHost: web\r\nX: a\rb\r\n\r\n",
        "400",
        0,
    ),
    ("NUL", "GET / HTTP/1.1\r\nHost: web\r\nX: a\0b\r\n\r\n", "400", 0),
    (
        "folded line",
        "GET / HTTP/1.1\r\nHost: web\r\nX: a\r\n b\r\n\r\n",
        "400",
        0,
    ),
    (
        "space before colon",
        "GET / HTTP/1.1\r\nHost : web\r\n\r\n",
        "400",
        0,
    ),
    (
        "line without colon",
        "GET / HTTP/1.1\r\nHost: web\r\nX\r\n\r\n",
        "400",
        0,
    ),
    (
        "connect",
        "CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\nContent-Length: 3\r\n\r\nabc",
        "400",
        0,
    ),
    ("old version", "GET / HTTP/0.9\r\nHost: web\r\n\r\n", "400", 0),
    ("two spaces", "GET  / HTTP/1.1\r\nHost: web\r\n\r\n", "400", 0),
    (
        "bad chunk size",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        "",
        0,
    ),
    (
        "h2c upgrade",
        "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABk\r\n\r\n",
        "200",
        1,
    ),
    (
        "good then bad",
        "GET /1 HTTP/1.1\r\nHost: web\r\n\r\nGET /2 HTTP/1.1\r\nHost: web\r\nHost: web\r\n\r\n",
        "200",
        1,
    ),
    (
        "chunked then pipelined",
        "POST /1 HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
         GET /2 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n",
        "200",
        2,
    ),
];

#[tokio::test]
async fn security_the_upstream_receives_exactly_the_requests_that_were_served() {
    for (name, bytes, status, forwarded) in CORPUS {
        let seen = Seen::default();
        let addr = web(&seen, |_| ok("x")).await;
        let mesh = Mesh::to(&[addr]);
        let answer = mesh.exchange(bytes).await;
        let got = answer.split(' ').nth(1).unwrap_or_default();
        assert_eq!(got, *status, "{name}: {answer:?}");
        let heads = seen.heads.lock().clone();
        assert_eq!(heads.len(), *forwarded, "{name}: {heads:?}");
        for head in &heads {
            assert_eq!(
                super::mesh::field(head, "host").as_deref(),
                Some("web"),
                "{name}: {head}"
            );
            assert!(super::mesh::field(head, "upgrade").is_none(), "{name}: {head}");
        }
    }
}

#[tokio::test]
async fn security_heads_beyond_the_limits_are_refused() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("x")).await;
    let mesh = Mesh::to(&[addr]);
    let large = format!("GET / HTTP/1.1\r\nHost: web\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    assert!(mesh.exchange(&large).await.starts_with("HTTP/1.1 431"));
    let fields: String = (0..129).map(|i| format!("x-{i}: 1\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: web\r\n{fields}\r\n");
    assert!(mesh.exchange(&many).await.starts_with("HTTP/1.1 431"));
    assert!(seen.heads.lock().is_empty());
    mesh.metric(&["heddle_proxy_bad_requests_total", "too_large"])
        .await;
}
