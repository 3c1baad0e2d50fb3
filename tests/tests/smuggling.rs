//! Requests made so that two readers disagree about them. What the application received is looked at, byte by byte.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::shop::{self, Shop, vips};
use serde_json::Value;
use std::net::SocketAddr;

/// What no application may ever get as a request of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n";

/// Heads that are refused before anything of them is passed on. `HOST` is the service.
const REFUSED: &[(&str, &str)] = &[
    (
        "CL.TE",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ncontent-length: 4\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
    ),
    (
        "TE.CL",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ntransfer-encoding: chunked\\r\\ncontent-length: 100\\r\\n\\r\\n0\\r\\n\\r\\n",
    ),
    (
        "two lengths",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ncontent-length: 0\\r\\ncontent-length: 60\\r\\n\\r\\n",
    ),
    (
        "a list of lengths",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ncontent-length: 0, 60\\r\\n\\r\\n",
    ),
    (
        "a signed length",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ncontent-length: +0\\r\\n\\r\\n",
    ),
    (
        "a negative length",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ncontent-length: -1\\r\\n\\r\\n",
    ),
    (
        "a hexadecimal length",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ncontent-length: 0x0\\r\\n\\r\\n",
    ),
    (
        "an overflowing length",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ncontent-length: 18446744073709551616\\r\\n\\r\\n",
    ),
    (
        "an unknown coding",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ntransfer-encoding: xchunked\\r\\n\\r\\n0\\r\\n\\r\\n",
    ),
    (
        "chunked is not last",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ntransfer-encoding: chunked, identity\\r\\n\\r\\n0\\r\\n\\r\\n",
    ),
    (
        "chunked twice",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ntransfer-encoding: chunked\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
    ),
    (
        "a vertical tab before chunked",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ntransfer-encoding:\\x0bchunked\\r\\n\\r\\n0\\r\\n\\r\\n",
    ),
    (
        "a space before the colon",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ntransfer-encoding : chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
    ),
    (
        "a folded line",
        "POST / HTTP/1.1\\r\\nhost: HOST\\r\\ntransfer-encoding:\\r\\n chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
    ),
    (
        "a line that begins with a space",
        "POST / HTTP/1.1\\r\\n host: HOST\\r\\n\\r\\n",
    ),
    (
        "a NUL in a value",
        "GET / HTTP/1.1\\r\\nhost: HOST\\r\\nx: a\\0b\\r\\n\\r\\n",
    ),
    (
        "a bare CR in a value",
        "GET / HTTP/1.1\\r\\nhost: HOST\\r\\nx: a\\rtransfer-encoding: chunked\\r\\n\\r\\n",
    ),
    (
        "a name with a space",
        "GET / HTTP/1.1\\r\\nhost: HOST\\r\\nx y: a\\r\\n\\r\\n",
    ),
    (
        "an empty name",
        "GET / HTTP/1.1\\r\\nhost: HOST\\r\\n: a\\r\\n\\r\\n",
    ),
    (
        "a line without a colon",
        "GET / HTTP/1.1\\r\\nhost: HOST\\r\\nnothing\\r\\n\\r\\n",
    ),
    (
        "two hosts",
        "GET / HTTP/1.1\\r\\nhost: HOST\\r\\nhost: other\\r\\n\\r\\n",
    ),
    ("no host", "GET / HTTP/1.1\\r\\nx: y\\r\\n\\r\\n"),
    (
        "a host with a path",
        "GET / HTTP/1.1\\r\\nhost: HOST/x\\r\\n\\r\\n",
    ),
    (
        "a host with a user",
        "GET / HTTP/1.1\\r\\nhost: user@HOST\\r\\n\\r\\n",
    ),
    (
        "a space in the target",
        "GET /a b HTTP/1.1\\r\\nhost: HOST\\r\\n\\r\\n",
    ),
    (
        "chunked in HTTP/1.0",
        "POST / HTTP/1.0\\r\\nhost: HOST\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
    ),
    (
        "CONNECT",
        "CONNECT HOST:80 HTTP/1.1\\r\\nhost: HOST:80\\r\\n\\r\\n",
    ),
];

/// Bodies whose end two readers may see at different places: their beginning may pass, what is behind never.
const CUT: &[(&str, &str)] = &[
    ("a size with 0x", "0x5\\r\\nhello\\r\\n0\\r\\n\\r\\n"),
    ("an empty size", "\\r\\nhello\\r\\n0\\r\\n\\r\\n"),
    ("a negative size", "-1\\r\\nhello\\r\\n0\\r\\n\\r\\n"),
    (
        "an overflowing size",
        "fffffffffffffffff\\r\\nhello\\r\\n0\\r\\n\\r\\n",
    ),
    ("a size ended by LF", "5\\nhello\\r\\n0\\r\\n\\r\\n"),
    ("an extension ended by LF", "5;x=\\nhello\\r\\n0\\r\\n\\r\\n"),
    (
        "data longer than its size",
        "5\\r\\nhelloworld\\r\\n0\\r\\n\\r\\n",
    ),
    ("data without its CRLF", "5\\r\\nhello0\\r\\n\\r\\n"),
];

fn ask(shop: &Shop, to: SocketAddr, data: &str) -> Value {
    shop.raw(to, &[data], &["--silence-ms", "1500"]).unwrap()
}

#[test]
fn ambiguous_heads_are_refused_and_nothing_of_them_arrives() {
    let shop = Shop::open().unwrap();
    for (index, place) in shop::PLACES.into_iter().enumerate() {
        for (name, head) in REFUSED {
            let to = vips(place, shop::RECORDED)[index];
            let before = shop.log_of(place, "record");
            let request = format!("{}{SMUGGLED}", head.replace("HOST", place));
            let answer = ask(&shop, to, &request);
            let reply = answer["reply"].as_str().unwrap_or_default();
            // 501 is RFC 9112's answer to a transfer coding that is not known.
            let status = reply.split(' ').nth(1).unwrap_or_default();
            assert!(
                status == "400" || (status == "501" && head.contains("transfer-encoding")),
                "{place}: {name}: {answer}"
            );
            assert_eq!(reply.matches("HTTP/1.").count(), 1, "{place}: {name}: {answer}");
            assert_ne!(answer["closed"], "open", "{place}: {name}: {answer}");
            let after = shop.log_of(place, "record");
            assert_eq!(after, before, "{place}: {name} reached the application");
        }
    }
}

#[test]
fn bodies_of_unclear_length_carry_no_second_request() {
    let shop = Shop::open().unwrap();
    for (index, place) in shop::PLACES.into_iter().enumerate() {
        for (name, body) in CUT {
            let to = vips(place, shop::RECORDED)[index];
            let head =
                format!("POST / HTTP/1.1\\r\\nhost: {place}\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n");
            let answer = ask(&shop, to, &format!("{head}{body}{SMUGGLED}"));
            let log = shop.log_of(place, "record");
            assert!(!log.contains("GET /smuggled"), "{place}: {name}: {answer}: {log}");
            assert_ne!(answer["closed"], "open", "{place}: {name}: {answer}");
        }
    }
}

#[test]
fn what_is_passed_on_is_framed_anew() {
    let shop = Shop::open().unwrap();
    for (index, place) in shop::PLACES.into_iter().enumerate() {
        let to = vips(place, shop::RECORDED)[index];
        let known = shop.log_of(place, "record").len();
        let head = format!(
            "POST /kept HTTP/1.1\\r\\nhost: {place}\\r\\nconnection: x-private, keep-alive\\r\\nx-private: 1\\r\\nkeep-alive: timeout=5\\r\\n\
             te: trailers\\r\\nproxy-connection: keep-alive\\r\\nupgrade: h2c\\r\\nhttp2-settings: AAMAAABkAAQAAP__\\r\\ncontent-length: 5\\r\\n\\r\\n"
        );
        let answer = ask(
            &shop,
            to,
            &format!(
                "{head}hello{}",
                SMUGGLED
                    .replace("/smuggled", "/next")
                    .replace("host: x", &format!("host: {place}"))
            ),
        );
        let reply = answer["reply"].as_str().unwrap();
        assert_eq!(reply.matches("HTTP/1.1 200 ").count(), 2, "{place}: {answer}");
        let log = shop.log_of(place, "record")[known..].to_lowercase();
        assert!(
            log.contains("post /kept http/1.1") && log.contains("get /next http/1.1"),
            "{place}: {log}"
        );
        for gone in [
            "x-private",
            "proxy-connection",
            "h2c",
            "http2-settings",
            "keep-alive: timeout",
        ] {
            assert!(!log.contains(gone), "{place}: {gone} was passed on: {log}");
        }
    }
}

#[test]
fn an_absolute_target_decides_over_the_host_field() {
    let shop = Shop::open().unwrap();
    for (index, place) in shop::PLACES.into_iter().enumerate() {
        let to = vips(place, shop::RECORDED)[index];
        let known = shop.log_of(place, "record").len();
        let answer = ask(
            &shop,
            to,
            &format!("GET http://{place}/absolute HTTP/1.1\\r\\nhost: other\\r\\n\\r\\n"),
        );
        let log = shop.log_of(place, "record")[known..].to_lowercase();
        let refused = answer["reply"].as_str().unwrap().starts_with("HTTP/1.1 400 ") && log.is_empty();
        let one_name = log.contains(&format!("host: {place}")) && !log.contains("host: other");
        assert!(refused || one_name, "{place}: {answer}: {log}");
    }
}
