//! Translated objects as they are kept: of tens of thousands, every spare word counts.

use super::ObjectKey;
use super::shared::Shared;
use crate::model::route::{Backend, Outcome, RouteRule};
use crate::model::workload::Labels;
use crate::translate::{PodSpec, PortRef, ServiceSpec, SliceSpec, TemplateSpec, Translated};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What objects have in common.
#[derive(Default)]
pub(super) struct Common {
    texts: Shared<str>,
    labels: Shared<BTreeMap<Arc<str>, Arc<str>>>,
}

impl Common {
    /// The one allocation of a text.
    pub(super) fn text(&mut self, text: &str) -> Arc<str> {
        self.texts.of(text.into())
    }

    /// The name of an object; of a Service that which its slices, pods and accounts often have as well.
    pub(super) fn name(&mut self, key: &ObjectKey) -> Arc<str> {
        if key.kind == "Service" {
            self.text(&key.name)
        } else {
            key.name.as_str().into()
        }
    }

    /// The same object, with what it has in common with others shared, and no room to grow.
    /// `selectors`: whether services find their endpoints by selector.
    pub(super) fn compact(&mut self, mut object: Translated, selectors: bool) -> Translated {
        match &mut object {
            Translated::Service(service) => self.service(service, selectors),
            Translated::EndpointSlice(slice) => self.slice(slice),
            Translated::WorkloadTemplate(template) => self.template(template),
            Translated::Pod(pod) => self.pod(pod),
            Translated::VirtualService(service) => {
                let table = Arc::get_mut(&mut service.table);
                table.into_iter().for_each(|table| self.rules(&mut table.rules));
            }
            Translated::ApiRoute(route) => {
                route.rules.shrink_to_fit();
                route
                    .rules
                    .iter_mut()
                    .for_each(|ranked| self.rule(&mut ranked.rule));
            }
            // Of these there are few, or no two are alike.
            _ => {}
        }
        object
    }

    fn service(&mut self, service: &mut ServiceSpec, selectors: bool) {
        if !selectors {
            service.selector = None;
        }
        service.vips.shrink_to_fit();
        service.ports.shrink_to_fit();
        for port in &mut service.ports {
            self.texts.share(&mut port.name);
            if let PortRef::Name(name) = &mut port.target {
                self.texts.share(name);
            }
        }
    }

    fn slice(&mut self, slice: &mut SliceSpec) {
        slice.service.iter_mut().for_each(|name| self.texts.share(name));
        slice.ports.shrink_to_fit();
        slice
            .ports
            .iter_mut()
            .for_each(|(name, _)| self.texts.share(name));
        slice.endpoints.shrink_to_fit();
        for endpoint in &mut slice.endpoints {
            endpoint.addresses.shrink_to_fit();
            self.texts.share(&mut endpoint.node);
        }
    }

    fn template(&mut self, template: &mut TemplateSpec) {
        self.texts.share(&mut template.service_account);
        for (kind, name) in template.owner.iter_mut() {
            self.texts.share(kind);
            self.texts.share(name);
        }
        self.labels(&mut template.labels);
    }

    fn pod(&mut self, pod: &mut PodSpec) {
        self.texts.share(&mut pod.node);
        self.texts.share(&mut pod.service_account);
        self.labels(&mut pod.labels);
    }

    fn rules(&mut self, rules: &mut Vec<RouteRule>) {
        rules.shrink_to_fit();
        rules.iter_mut().for_each(|rule| self.rule(rule));
    }

    /// Of one rule or one destination, `Vec` makes room for four.
    fn rule(&mut self, rule: &mut RouteRule) {
        rule.matches.shrink_to_fit();
        for block in &mut rule.matches {
            for fields in [&mut block.headers, &mut block.without_headers, &mut block.query] {
                fields.shrink_to_fit();
                fields.iter_mut().for_each(|(name, _)| self.texts.share(name));
            }
        }
        self.texts.share(&mut rule.name);
        let Some(Outcome::Forward(split)) = Arc::get_mut(&mut rule.action).map(|action| &mut action.outcome)
        else {
            return;
        };
        split.destinations.shrink_to_fit();
        for destination in &mut split.destinations {
            if let Backend::Host(to) = &mut destination.backend {
                self.texts.share(&mut to.host);
                to.subset.iter_mut().for_each(|subset| self.texts.share(subset));
            }
        }
    }

    fn labels(&mut self, labels: &mut Labels) {
        let texts = &mut self.texts;
        let shared = labels
            .iter()
            .map(|(key, value)| (texts.of(Arc::clone(key)), texts.of(Arc::clone(value))))
            .collect();
        *labels = self.labels.of(Arc::new(shared));
    }
}
