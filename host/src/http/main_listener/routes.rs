//! The paths of the main listener, each with its endpoints and the counters of its responses.

use hyper::Method;
use optoken_protocol::paths;

use crate::http::OTHER_PATH;
use crate::http::api::endpoint::Endpoint;
use crate::metrics::Metrics;
use crate::metrics::responses::ResponseCounters;

/// All paths.
pub(super) struct Routes {
    routes: Vec<Route>,
    /// Counts the responses at unknown paths. They share one label, so clients cannot create
    /// labels.
    other: ResponseCounters,
}

/// A path.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) endpoints: Vec<Endpoint>,
    responses: ResponseCounters,
}

impl Routes {
    pub(super) fn new(endpoints: Vec<Endpoint>, metrics: &Metrics) -> Self {
        let responses = |path| metrics.responses("main", path);
        let mut routes = Vec::<Route>::new();
        for endpoint in endpoints {
            let path = endpoint.path;
            match routes.iter_mut().find(|route| route.path == path) {
                Some(route) => route.endpoints.push(endpoint),
                None => routes.push(Route { path, endpoints: vec![endpoint], responses: responses(path) }),
            }
        }
        // Found first, as most requests are for it.
        routes.sort_by_key(|route| route.path != paths::VERIFY);
        Self { routes, other: responses(OTHER_PATH) }
    }

    /// Returns the route of a path. Paths are compared byte for byte (docs/compatibility.md 2.1);
    /// that of forward authentication has paths below it.
    pub(super) fn find(&self, path: &str) -> Option<&Route> {
        let path = if paths::is_verify(path) { paths::VERIFY } else { path };
        self.routes.iter().find(|route| route.path == path)
    }

    /// Returns the counters of the responses at a route.
    pub(super) fn responses<'a>(&'a self, route: Option<&'a Route>) -> &'a ResponseCounters {
        route.map_or(&self.other, |route| &route.responses)
    }
}

impl Route {
    /// Returns the endpoint for a method.
    pub(super) fn endpoint(&self, method: &Method) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.handles(method))
    }
}
