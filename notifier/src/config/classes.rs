//! The source classes, and which option is to blame where they cannot be used.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::error::{ConfigError, Origin};
use super::layers::Layers;
use super::{networks, value};
use crate::policy::Classes;
use crate::policy::network::{ClassError, MAX_CLASSES};

/// Names of classes that are always there; `external` is what no network holds.
const POD: &str = "internal_pod";
const NODE: &str = "cluster_node";
const RESERVED: [&str; 4] = [POD, NODE, "external", "unknown"];

/// The classes with their networks; what is in two of them could not be told apart.
pub(super) fn classes(layers: &mut Layers) -> Result<Classes, ConfigError> {
    let (pods, pods_by) = networks(
        layers,
        "pod-cidr",
        |raw| &raw.reading.pod_cidr,
        "10.10.0.0/16",
    )?;
    let (nodes, nodes_by) = networks(
        layers,
        "node-cidr",
        |raw| &raw.reading.node_cidr,
        "10.0.20.0/24",
    )?;
    let mut classes = vec![(POD.to_owned(), pods), (NODE.to_owned(), nodes)];
    let (typed, origin) = match layers.pick("classes", |raw| &raw.reading.classes) {
        Some((typed, origin, _)) => (typed, origin),
        None => (Vec::new(), Origin::Default("classes")),
    };
    let wrong = |what: String| ConfigError::new(&origin, what);
    for text in &typed {
        let Some((name, list)) = text.split_once('=') else {
            return Err(wrong(format!(
                "{:?} has no networks; write NAME=CIDR,CIDR",
                &**text
            )));
        };
        if RESERVED.contains(&name) {
            return Err(wrong(format!(
                "{name} is always there; use --pod-cidr or --node-cidr, or another name"
            )));
        }
        if classes.iter().any(|(known, _)| known == name) {
            return Err(wrong(format!(
                "{name} is given twice; put its networks into one list"
            )));
        }
        classes.push((name.to_owned(), value::networks(list).map_err(wrong)?));
    }
    let classes = classes.into_iter().collect();
    let given_by = GivenBy {
        pods: pods_by,
        nodes: nodes_by,
        own: origin.clone(),
    };
    let classes = Classes::new(&classes).map_err(|error| given_by.blame(&error, &classes))?;
    let shown: Vec<_> = typed.iter().map(|text| text.to_string()).collect();
    layers.effective.add("classes", shown.join(" "), origin);
    Ok(classes)
}

/// Who gave the networks of which class.
struct GivenBy {
    pods: Origin,
    nodes: Origin,
    own: Origin,
}

impl GivenBy {
    fn of(&self, class: &str) -> &Origin {
        match class {
            POD => &self.pods,
            NODE => &self.nodes,
            _ => &self.own,
        }
    }

    /// The error with the option at fault before it.
    fn blame(&self, error: &ClassError, classes: &BTreeMap<String, Vec<IpNet>>) -> ConfigError {
        match error {
            ClassError::Name(class) => ConfigError::new(self.of(class), error),
            ClassError::HostBits { class, .. } => ConfigError::new(self.of(class), error),
            ClassError::Twice { first, second, .. } => match (self.of(first), self.of(second)) {
                // The one that somebody gave, and why the other has it.
                (Origin::Default(key), given) => taken(given, error, first, key),
                (given, Origin::Default(key)) => taken(given, error, second, key),
                (given, _) => ConfigError::new(given, error),
            },
            ClassError::TooMany { classes: count, .. } if *count > MAX_CLASSES => {
                ConfigError::new(&self.own, error)
            }
            ClassError::TooMany { prefixes, .. } => {
                let count = |class| classes.get(class).map_or(0, Vec::len);
                let (pods, nodes) = (count(POD), count(NODE));
                let own = prefixes.saturating_sub(pods + nodes);
                // Whoever gives the most.
                let most = [(pods, &self.pods), (nodes, &self.nodes), (own, &self.own)]
                    .into_iter()
                    .max_by_key(|(count, _)| *count);
                ConfigError::new(most.map_or(&self.own, |(_, origin)| origin), error)
            }
        }
    }
}

fn taken(given: &Origin, error: &ClassError, class: &str, key: &str) -> ConfigError {
    let what = format_args!("{error} ({class} has it unless --{key} is given)");
    ConfigError::new(given, what)
}
