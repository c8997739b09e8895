//! Tells the server where services live: one small file, replaced as a whole.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use whodunit_model::Service;

use crate::state::replace;

/// The file and what it says.
#[derive(Debug)]
pub(crate) struct TopologyFile {
    path: PathBuf,
    services: Mutex<Vec<Service>>,
}

/// One endpoint of the file: numbers of the service and of its endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) service: usize,
    pub(crate) endpoint: usize,
}

#[derive(Serialize)]
struct File<'a> {
    services: &'a [Service],
}

impl TopologyFile {
    /// Writes the file for the first time.
    pub(crate) fn create(path: PathBuf, services: Vec<Service>) -> io::Result<Self> {
        let file = Self {
            path,
            services: Mutex::new(services),
        };
        file.write(&file.services.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(file)
    }

    /// Sets whether an endpoint may get requests, and writes the file if that is new.
    pub(crate) fn set_ready(&self, place: Place, ready: bool) -> io::Result<()> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoint = services
            .get_mut(place.service)
            .and_then(|service| service.endpoints.get_mut(place.endpoint));
        match endpoint {
            Some(endpoint) if endpoint.ready != ready => endpoint.ready = ready,
            _ => return Ok(()),
        }
        self.write(&services)
    }

    fn write(&self, services: &[Service]) -> io::Result<()> {
        replace(&self.path, &serde_json::to_vec_pretty(&File { services })?)
    }
}
