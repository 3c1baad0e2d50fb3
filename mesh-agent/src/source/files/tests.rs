use super::*;

fn applied(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .filter_map(|change| match change {
            Change::Apply { object, origin } => Some(format!("{origin}:{}", object["metadata"]["name"])),
            _ => None,
        })
        .collect()
}

#[test]
fn a_broken_file_is_reported_with_line_and_reason_and_the_others_are_read() {
    let files = vec![
        (
            "a.yaml".to_owned(),
            Ok("metadata: {name: a1}\n---\nmetadata: {name: a2}\n".to_owned()),
        ),
        ("b.yaml".to_owned(), Ok("metadata: [1,\n".to_owned())),
        (
            "c.json".to_owned(),
            Ok(r#"{"metadata": {"name": "c"}}"#.to_owned()),
        ),
    ];
    let changes: Vec<Change> = listing(files).flatten().collect();
    assert_eq!(
        applied(&changes),
        ["a.yaml:\"a1\"", "a.yaml:\"a2\"", "c.json:\"c\""]
    );
    let unreadable: Vec<_> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Unreadable { origin, reason } => Some((origin.as_str(), reason.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(unreadable.len(), 1);
    assert_eq!(unreadable[0].0, "b.yaml");
    assert!(unreadable[0].1.contains("line 1"), "{}", unreadable[0].1);
}

#[test]
fn a_listing_is_handed_over_in_pieces_and_is_one_listing_all_the_same() {
    let large = format!("metadata: {{name: large}}\nx: {}\n", "y".repeat(2 * BATCH_BYTES));
    let files = ["a", "b", "c"].map(|name| (format!("{name}.yaml"), Ok(large.clone())));
    let batches: Vec<Vec<Change>> = listing(files.into()).collect();
    assert!(batches.iter().all(|batch| applied(batch).len() <= 1));
    let all: Vec<Change> = batches.into_iter().flatten().collect();
    assert!(matches!(all.first(), Some(Change::Init)) && matches!(all.last(), Some(Change::InitDone)));
    assert_eq!((applied(&all).len(), all.len()), (3, 5));
}

#[test]
fn nul_bytes_deep_nesting_and_alias_bombs_are_refused() {
    let deep: String = (0..3000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x]\n{}",
        (0..12).fold(String::new(), |mut text, i| {
            let (new, old) = (char::from(b'b' + i), char::from(b'a' + i));
            text.push_str(&format!(
                "{new}: &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old}]\n"
            ));
            text
        })
    );
    for text in ["a: \"x\0y\"", &deep, &bomb, &"[".repeat(5000)] {
        assert!(parse(text).is_err());
    }
}

#[test]
fn the_items_of_a_list_are_objects_of_their_own() {
    let text = "kind: List\nitems:\n- metadata: {name: x}\n- metadata: {name: y}\n";
    assert_eq!(parse(text).unwrap().len(), 2);
}

#[tokio::test]
async fn a_change_of_a_file_is_seen_and_an_unreadable_folder_is_not_an_empty_one() {
    let dir = std::env::temp_dir().join(format!("heddle-files-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.yaml"), "metadata: {name: one}\n").unwrap();
    let (tx, mut rx) = mpsc::channel(4);
    let watching = tokio::spawn(watch(dir.clone(), tx));
    assert_eq!(applied(&rx.recv().await.unwrap()), ["a.yaml:\"one\""]);
    fs::write(dir.join("a.yaml"), "metadata: {name: two}\n").unwrap();
    assert_eq!(applied(&rx.recv().await.unwrap()), ["a.yaml:\"two\""]);
    fs::remove_dir_all(&dir).unwrap();
    let more = tokio::time::timeout(Duration::from_millis(300), rx.recv()).await;
    // The file's removal is a change; the folder's is not.
    if let Ok(Some(changes)) = more {
        assert!(matches!(changes.first(), Some(Change::Init)));
    }
    drop(rx);
    watching.await.unwrap().unwrap();
}
