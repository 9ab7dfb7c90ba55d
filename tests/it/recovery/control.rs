//! `seawall primary --control`: what changes in the file happens, between real processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::proxy::Proxy;
use crate::harness::{Ended, Node, Random, free_port, program, run, scratch, seawall};

/// One server of the assignment file: its name, where it is reached, the version of that address.
type Placed<'a> = (&'a str, String, u64);

/// A volume whose primary follows a file.
struct Site {
    dir: TempDir,
    volume: String,
    file: PathBuf,
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

impl Site {
    fn new() -> Site {
        let dir = scratch();
        let path = text(&dir.path().join("vol"));
        seawall(&["create", &path, "--size", "4M", "--segment-size", "1M"]).ok();
        let status = seawall(&["status", &path, "--json"]).ok().json();
        Site {
            volume: status["volume"].as_str().unwrap().to_owned(),
            file: dir.path().join("assigned.json"),
            dir,
        }
    }

    fn id(&self, server: &str) -> String {
        format!("{}/{server}", self.volume)
    }

    /// A replica on `server`, and its address.
    fn replica(&self, server: &str) -> (Node, String) {
        let address = format!("127.0.0.1:{}", free_port());
        let dir = text(&self.dir.path().join(server));
        let id = self.id(server);
        let call = ["replica", &dir, "--id", &id, "--listen", &address];
        let mut node = Node::start(program("seawall"), &call);
        node.wait_for("is listening");
        (node, address)
    }

    fn assign(&self, epoch: u64, replicas: &[Placed<'_>]) {
        let replicas: Vec<Value> = replicas
            .iter()
            .map(|(server, address, version)| {
                json!({
                    "server": server, "data": address, "control": address,
                    "address_version": version,
                })
            })
            .collect();
        let volumes = json!({"volumes": [{
            "volume": self.volume, "primary": "rack-1", "role": "primary", "epoch": epoch,
            "replicas": replicas,
        }]});
        // Whole or not at all: a file cut off is another test.
        let whole = self.dir.path().join("next.json");
        std::fs::write(&whole, volumes.to_string()).unwrap();
        std::fs::rename(&whole, &self.file).unwrap();
    }

    fn call(&self) -> Vec<String> {
        let volume = text(&self.dir.path().join("vol"));
        let file = text(&self.file);
        let words = ["primary", &volume, "--control", &file, "--server", "rack-1"];
        words.map(str::to_owned).to_vec()
    }

    fn serve(&self) -> Served {
        let mut words = self.call();
        words.push("--commands".into());
        let mut node = Node::start_fed(program("seawall"), &words);
        node.wait_for("\"primary\"");
        Served { node }
    }

    /// Starts the primary, which has to end by itself.
    fn refused(&self, fact: &str) {
        let ended: Ended = seawall(&self.call());
        ended.refused(2, fact);
    }

    /// The bytes and the durable LSN of a volume at rest.
    fn state(&self, name: &str) -> (Vec<u8>, Value) {
        let dir = text(&self.dir.path().join(name));
        let image = self.dir.path().join("image");
        seawall(&["export", &dir, &text(&image)]).ok();
        let bytes = std::fs::read(&image).unwrap();
        std::fs::remove_file(&image).unwrap();
        let status = seawall(&["status", &dir, "--json"]).ok().json();
        (bytes, status["durable"].clone())
    }
}

/// A primary that takes commands.
struct Served {
    node: Node,
}

impl Served {
    #[track_caller]
    fn ask(&mut self, command: &str) -> Value {
        self.node.say(command);
        let answer: Value = serde_json::from_str(&self.node.wait_for("\"ok\"")).unwrap();
        assert_eq!(answer["ok"], true, "{command}: {answer}");
        answer
    }

    /// Writes `file` at `at`, and gives the head.
    #[track_caller]
    fn write(&mut self, at: u64, file: &Path) -> u64 {
        let length = file.metadata().unwrap().len();
        self.ask(&format!("write 0 {length} {at} {}", file.display()));
        self.ask("flush")["committed"].as_u64().unwrap()
    }

    #[track_caller]
    fn in_sync(&mut self, id: &str, lsn: u64) {
        let answer = self.ask(&format!("wait {id} {lsn} 60000"));
        assert_eq!(answer["in_sync"], true, "{}", self.ask("status"));
    }

    /// What status says of replica `id`.
    #[track_caller]
    fn replica(&mut self, id: &str) -> Value {
        let status = self.ask("status");
        let replicas = status["status"]["replicas"].as_array().unwrap().clone();
        let of = replicas.into_iter().find(|replica| replica["id"] == id);
        of.unwrap_or_else(|| panic!("no {id} in {status}"))
    }

    /// Waits until the file was followed.
    fn followed(&mut self, epoch: u64, replicas: usize) {
        let line = format!("epoch {epoch}, replicas {replicas}: assigned");
        self.node.wait_for(&line);
    }
}

fn stop(node: Node) {
    run("kill", &["-TERM", &node.id().to_string()]).ok();
    assert!(node.ended().success());
}

fn piece(dir: &Path) -> PathBuf {
    let path = dir.join("piece");
    std::fs::write(&path, Random::new(7).bytes(256 << 10)).unwrap();
    path
}

// D2, D5, D8, 1.7 to 1.9
#[test]
fn replicas_come_move_and_go_as_the_file_says_and_the_epoch_rises_by_a_promotion() {
    let site = Site::new();
    let piece = piece(site.dir.path());
    let (two, three) = (site.id("rack-2"), site.id("rack-3"));
    let (second, at_two) = site.replica("rack-2");
    let (third, at_three) = site.replica("rack-3");
    site.assign(1, &[("rack-2", at_two.clone(), 1)]);
    let mut served = site.serve();
    let early = served.write(0, &piece);
    served.in_sync(&two, early);

    // Added.
    let both = [
        ("rack-2", at_two.clone(), 1),
        ("rack-3", at_three.clone(), 1),
    ];
    site.assign(1, &both);
    served.followed(1, 2);
    served.in_sync(&three, early);

    // Moved: the same replica behind another address.
    let before = served.replica(&three)["session"].clone();
    let proxy = Proxy::before(at_three.parse::<SocketAddr>().unwrap());
    let moved = ("rack-3", proxy.address(), 2);
    site.assign(1, &[both[0].clone(), moved.clone()]);
    served.followed(1, 2);
    served.in_sync(&three, early);
    let after = served.replica(&three);
    assert_eq!(after["address"], proxy.address());
    assert_ne!(after["session"], before);
    assert!(proxy.connections() >= 1);

    // Removed.
    site.assign(1, std::slice::from_ref(&moved));
    served.followed(1, 1);
    let status = served.ask("status")["status"].clone();
    assert_eq!(status["replicas"].as_array().unwrap().len(), 1, "{status}");
    let pins = status["pins"].as_array().unwrap().iter();
    let theirs = pins.filter(|pin| pin["owner"].as_str().unwrap().ends_with(&two));
    assert_eq!(theirs.count(), 0, "{status}");
    let late = served.write(512 << 10, &piece);
    served.in_sync(&three, late);

    // A new epoch: the file may not give it, a promotion does.
    site.assign(5, std::slice::from_ref(&moved));
    let refused = served.node.wait_for("epoch 5 is above epoch 1");
    assert!(refused.contains("seawall promote"), "{refused}");
    served.in_sync(&three, late);
    served.node.say("quit");
    assert!(served.node.ended().success());
    site.refused("epoch 5 is above epoch 1");
    let (volume, peer) = (
        text(&site.dir.path().join("vol")),
        format!("{three}={at_three}"),
    );
    seawall(&["promote", &volume, "--epoch", "5", "--peer", &peer]).ok();
    let mut served = site.serve();
    let last = served.write(1 << 20, &piece);
    served.in_sync(&three, last);
    let status = served.ask("status")["status"].clone();
    assert_eq!(status["epoch"], 5);
    served.node.say("quit");
    assert!(served.node.ended().success());
    stop(second);
    stop(third);
    let (ours, theirs) = (site.state("vol"), site.state("rack-3"));
    assert_eq!((&ours.1, &theirs.1), (&json!(last), &json!(last)));
    assert!(ours.0 == theirs.0, "the copies differ");
    assert_eq!(site.state("rack-2").1, early, "let go when it was removed");

    // An older file does not take a restart back; the newest one does not stand in its way.
    site.assign(4, std::slice::from_ref(&moved));
    site.refused("epoch 4 is older than epoch 5");
    site.assign(5, std::slice::from_ref(&moved));
    let mut served = site.serve();
    assert_eq!(served.ask("status")["status"]["epoch"], 5);
}

#[test]
fn a_file_that_is_no_assignment_is_named_with_its_line_and_changes_nothing() {
    let site = Site::new();
    let piece = piece(site.dir.path());
    let two = site.id("rack-2");
    let (_second, address) = site.replica("rack-2");
    let placed = [("rack-2", address.clone(), 1)];
    std::fs::write(&site.file, "{\n  \"volumes\": [\n").unwrap();
    site.refused("cut off at line 3");
    site.assign(1, &placed);
    let mut served = site.serve();
    let early = served.write(0, &piece);
    served.in_sync(&two, early);
    let session = served.replica(&two)["session"].clone();
    for (broken, said) in [
        ("{\n  \"volumes\": [\n oops", "is no JSON at line 3"),
        (
            "{\"volumes\": [\n{\"volume\": 7}]}",
            "of another type at line 2",
        ),
        ("{\"volumes\": []}", "has no entry with volume"),
    ] {
        std::fs::write(&site.file, broken).unwrap();
        let line = served.node.wait_for(said);
        assert!(line.contains("assigned.json"), "{line}");
        assert!(
            line.ends_with("what was assigned before it stays"),
            "{line}"
        );
    }
    std::fs::remove_file(&site.file).unwrap();
    served.node.wait_for("assigned.json");
    site.assign(0, &placed);
    served.node.wait_for("epoch 0 is older than epoch 1");
    let twice = [("rack-2", address.clone(), 1), ("rack-2", address, 2)];
    site.assign(1, &twice);
    served.node.wait_for("is listed twice");
    let late = served.write(512 << 10, &piece);
    served.in_sync(&two, late);
    assert_eq!(
        served.replica(&two)["session"],
        session,
        "one stream all along"
    );
    site.assign(1, &placed);
    served.followed(1, 1);
    assert_eq!(served.replica(&two)["session"], session);
}
