//! A node's directories, with others who write to them.

use super::*;
use crate::testing::TempDir;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::sync::watch;

const CONFLIST: &str = "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"pods\",\n  \"plugins\": [\n    {\"type\": \"bridge\"}\n  ]\n}\n";

struct Node {
    dir: TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { dir: TempDir::new() };
        for dir in ["bin", "conf"] {
            fs::create_dir(node.dir.0.join(dir)).unwrap();
        }
        fs::write(node.dir.0.join("program"), "the program").unwrap();
        node
    }

    fn bin(&self) -> PathBuf {
        self.dir.0.join("bin")
    }

    fn conf(&self) -> PathBuf {
        self.dir.0.join("conf")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.conf().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.conf().join(name)).unwrap()
    }

    fn install(&self) -> Install {
        Install {
            bin_dir: self.bin(),
            conf_dir: self.conf(),
            program: self.dir.0.join("program"),
            entry: Entry::new("/run/heddle/cni.sock".to_owned(), 10, false, Vec::new()),
        }
    }

    /// Names and contents of everything in both directories.
    fn everything(&self) -> Vec<(PathBuf, String)> {
        let mut files: Vec<_> = [self.bin(), self.conf()]
            .iter()
            .flat_map(|dir| fs::read_dir(dir).unwrap())
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read_to_string(&path).unwrap()))
            .collect();
        files.sort();
        files
    }

    fn uninstall(&self) -> Vec<PathBuf> {
        uninstall(Some(&self.bin()), Some(&self.conf())).unwrap()
    }
}

#[test]
fn what_was_installed_goes_without_a_trace() {
    let node = Node::new();
    node.write("10-pods.conflist", CONFLIST);
    node.write("99-other.conflist", "not our concern");
    fs::set_permissions(
        node.conf().join("10-pods.conflist"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let before = node.everything();
    let installed = install(&node.install()).unwrap();
    assert_eq!(installed, (Some(node.conf().join("10-pods.conflist")), true));
    assert!(node.read("10-pods.conflist").contains(PLUGIN_TYPE));
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(node.bin().join(PLUGIN_TYPE)), 0o755);
    assert_eq!(mode(node.conf().join("10-pods.conflist")), 0o600);
    let again = install(&node.install()).unwrap();
    assert!(!again.1, "a second time changes nothing");
    let found = || find(Some(&node.bin()), Some(&node.conf())).unwrap();
    assert_eq!(found().len(), 2);
    assert_eq!(node.uninstall().len(), 2);
    assert_eq!(node.everything(), before);
    assert_eq!(found().len(), 0);
    assert_eq!(node.uninstall().len(), 0);
}

#[test]
fn a_new_version_of_the_program_replaces_the_old() {
    let node = Node::new();
    node.write("10-pods.conflist", CONFLIST);
    install(&node.install()).unwrap();
    // Same length.
    fs::write(&node.install().program, "THE PROGRAM").unwrap();
    assert!(install(&node.install()).unwrap().1);
    assert_eq!(
        fs::read_to_string(node.bin().join(PLUGIN_TYPE)).unwrap(),
        "THE PROGRAM"
    );
}

#[test]
fn a_single_configuration_becomes_a_list_and_comes_back() {
    let node = Node::new();
    let single = "{\"cniVersion\": \"0.3.1\", \"name\": \"pods\", \"type\": \"bridge\"}\n";
    node.write("10-pods.conf", single);
    let before = node.everything();
    for _ in 0..2 {
        let (file, _) = install(&node.install()).unwrap();
        assert_eq!(file, Some(node.conf().join("10-pods.conflist")));
        assert!(!node.conf().join("10-pods.conf").exists());
    }
    // The CNI writes its form anew: it is in force again, until it is wrapped again.
    let new = single.replace("bridge", "ptp");
    node.write("10-pods.conf", &new);
    install(&node.install()).unwrap();
    assert!(node.read("10-pods.conflist").contains("ptp"));
    node.write("10-pods.conf", single);
    install(&node.install()).unwrap();
    node.uninstall();
    assert_eq!(node.everything(), before);
}

#[test]
fn a_list_that_the_cni_made_of_its_own_stays_when_we_go() {
    let node = Node::new();
    node.write(
        "10-pods.conf",
        "{\"cniVersion\": \"0.3.1\", \"name\": \"pods\", \"type\": \"bridge\"}",
    );
    install(&node.install()).unwrap();
    node.write("10-pods.conflist", CONFLIST);
    install(&node.install()).unwrap();
    node.uninstall();
    let left: Vec<PathBuf> = node.everything().into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, [node.conf().join("10-pods.conflist")]);
    assert_eq!(node.read("10-pods.conflist"), CONFLIST);
}

#[test]
fn anothers_list_is_not_overwritten() {
    let node = Node::new();
    node.write(
        "10-pods.conf",
        "{\"cniVersion\": \"0.3.1\", \"name\": \"pods\", \"type\": \"bridge\"}",
    );
    node.write("10-pods.conflist", CONFLIST);
    let before = node.everything().len();
    let error = install(&node.install()).unwrap_err();
    assert!(matches!(error, InstallError::InTheWay { .. }));
    assert_eq!(node.read("10-pods.conflist"), CONFLIST);
    assert_eq!(node.everything().len(), before + 1, "the program only");
}

#[test]
fn a_file_that_is_not_json_is_named_and_no_other_is_touched() {
    let node = Node::new();
    node.write("05-broken.conflist", "{\"plugins\": [");
    node.write("10-pods.conflist", CONFLIST);
    let error = install(&node.install()).unwrap_err().to_string();
    assert!(error.contains("05-broken.conflist: is not JSON"), "{error}");
    assert_eq!(examine(&node.conf()).unwrap_err().to_string(), error);
    assert!(error.contains("line 1 column"), "{error}");
    assert_eq!(node.read("10-pods.conflist"), CONFLIST);
    assert_eq!(node.read("05-broken.conflist"), "{\"plugins\": [");
}

#[test]
fn a_program_stays_while_an_entry_may_name_it() {
    let node = Node::new();
    node.write("10-pods.conflist", CONFLIST);
    install(&node.install()).unwrap();
    node.write("20-broken.conflist", "{\"type\": \"heddle-cni\"");
    assert!(uninstall(Some(&node.bin()), Some(&node.conf())).is_err());
    assert_eq!(
        node.read("10-pods.conflist"),
        CONFLIST,
        "the others are restored all the same"
    );
    assert!(node.bin().join(PLUGIN_TYPE).exists());
}

#[test]
fn a_crash_in_the_middle_leaves_nothing_that_a_runtime_loads() {
    let node = Node::new();
    node.write("10-pods.conflist", CONFLIST);
    node.write(".10-pods.conflist.heddle-new", "half");
    install(&node.install()).unwrap();
    node.uninstall();
    assert_eq!(node.everything().len(), 1);
    assert!(!conflist::is_loaded(".10-pods.conflist.heddle-new"));
    assert!(!conflist::is_loaded("10-pods.conf.heddle-saved"));
}

async fn until(status: &mut watch::Receiver<CniStatus>, wanted: impl Fn(&CniStatus) -> bool) {
    tokio::time::timeout(Duration::from_secs(8), status.wait_for(wanted))
        .await
        .expect("no such status in time")
        .unwrap();
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..400 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not in time: {what}");
}

#[tokio::test]
async fn the_entry_survives_what_others_write() {
    let node = Node::new();
    let (sender, mut status) = watch::channel(CniStatus::default());
    let keeper = tokio::spawn(keep(node.install(), sender));
    until(&mut status, |status| *status == CniStatus::NoConfiguration).await;

    // The CNI comes after the mesh.
    node.write("10-pods.conflist", CONFLIST);
    let file = node.conf().join("10-pods.conflist");
    until(
        &mut status,
        |status| matches!(status, CniStatus::Installed { file: now } if *now == file),
    )
    .await;

    // It rewrites its file.
    node.write("10-pods.conflist", &CONFLIST.replace("bridge", "ptp"));
    eventually("the rewritten file is repaired", || {
        let text = node.read("10-pods.conflist");
        text.contains("ptp") && text.contains(PLUGIN_TYPE)
    })
    .await;

    // Another CNI takes its place.
    node.write("05-first.conflist", CONFLIST);
    let first = node.conf().join("05-first.conflist");
    until(
        &mut status,
        |status| matches!(status, CniStatus::Installed { file } if *file == first),
    )
    .await;

    // Somebody breaks it, and repairs it.
    node.write("05-first.conflist", "{");
    until(
        &mut status,
        |status| matches!(status, CniStatus::Failed { reason } if reason.contains("05-first.conflist")),
    )
    .await;
    node.write("05-first.conflist", CONFLIST);
    until(&mut status, |status| {
        matches!(status, CniStatus::Installed { .. })
    })
    .await;

    fs::remove_file(node.bin().join(PLUGIN_TYPE)).unwrap();
    eventually("the program is back", || node.bin().join(PLUGIN_TYPE).exists()).await;

    drop(status);
    tokio::time::timeout(Duration::from_secs(5), keeper)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    node.uninstall();
    assert_eq!(node.read("05-first.conflist"), CONFLIST);
    assert_eq!(
        node.read("10-pods.conflist"),
        CONFLIST.replace("bridge", "ptp"),
        "also the file that is no longer in force"
    );
}

#[tokio::test]
async fn a_keeper_that_has_ended_writes_nothing_any_more() {
    // Comparing it takes a while, within which the others come.
    let program = vec![7; 16 << 20];
    for pause in 0..12 {
        let node = Node::new();
        fs::write(node.dir.0.join("program"), &program).unwrap();
        node.write("10-pods.conflist", CONFLIST);
        install(&node.install()).unwrap();
        let (sender, status) = watch::channel(CniStatus::default());
        let keeper = tokio::spawn(keep(node.install(), sender));
        tokio::time::sleep(Duration::from_millis(pause)).await;
        drop(status);
        keeper.await.unwrap().unwrap();
        uninstall(Some(&node.bin()), Some(&node.conf())).unwrap();
        let left = find(Some(&node.bin()), Some(&node.conf())).unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(left, find(Some(&node.bin()), Some(&node.conf())).unwrap());
        assert_eq!(left, Vec::<PathBuf>::new());
    }
}
