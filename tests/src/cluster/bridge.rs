//! The way from the network namespace of a node with real containers to a cluster outside of it.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::Cluster;
use crate::agent::{Agent, NODE_NAME};
use crate::containerd::Node;

/// A way; it ends with the runtime it was made on, or when dropped.
#[derive(Debug)]
pub struct Bridge(JoinHandle<()>);

impl Drop for Bridge {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Cluster {
    /// Lets what runs on `node` reach the server at the address it has outside, for as long as the bridge is there; and
    /// the agent with the kubeconfig of a member.
    ///
    /// # Errors
    /// When the address is taken there, or a file cannot be written.
    pub fn reach_from<'n>(&self, node: &Node, agent: Agent<'n>) -> Result<(Bridge, Agent<'n>)> {
        let address = self.line.address();
        let listener = listen_in(node.netns(), address)?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let carry = async move {
            while let Ok((mut near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(address).await {
                        // Either end may break it: that is the test's affair.
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        };
        let bridge = Bridge(tokio::spawn(carry));
        // The double speaks nothing else; ours neither.
        if agent.is_foreign() {
            agent.configure("contentType", "application/json")?;
        }
        let file = self.node_kubeconfig(NODE_NAME, &node.path(""))?;
        let agent = agent.with_flag(format!("--kubeconfig={}", file.display()));
        Ok((bridge, agent))
    }
}

fn listen_in(netns: &Path, address: SocketAddr) -> Result<TcpListener> {
    let netns = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    // A namespace is a thread's own: one that ends afterwards keeps the others where they are.
    let listening = std::thread::spawn(move || {
        setns(&netns, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
        TcpListener::bind(address).with_context(|| format!("listen at {address}"))
    });
    let listening = listening.join();
    listening.map_err(|_| anyhow!("the thread that listens panicked"))?
}
