//! Pipelines: filters in their order, and groups of them.

use super::Name;

/// A named list of filters and groups.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub name: Name,
    pub steps: Vec<Step<Name>>,
}

/// A part of a pipeline. `F` stands for a filter: its name, itself or its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<F> {
    Filter(F),
    /// One of the members has to let the request pass.
    AnyOf(AnyOf<F>),
    /// All members have to, in this order.
    AllOf(Vec<Step<F>>),
}

/// Members of which one is enough. They are tried in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnyOf<F> {
    pub members: Vec<Step<F>>,
    pub try_next_on: TryNextOn,
    /// Whether a request passes that all members refuse.
    pub optional: bool,
}

/// The statuses of an answer after which the next member is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TryNextOn(pub Vec<u16>);

impl<F> Step<F> {
    /// The filters of it, in their order.
    pub fn filters(&self) -> Vec<&F> {
        match self {
            Step::Filter(filter) => vec![filter],
            Step::AnyOf(AnyOf { members, .. }) | Step::AllOf(members) => {
                members.iter().flat_map(Step::filters).collect()
            }
        }
    }

    /// The same step of other filters. None where `to` has none.
    pub fn try_map<G>(&self, to: &mut impl FnMut(&F) -> Option<G>) -> Option<Step<G>> {
        let mut all = |members: &[Step<F>]| members.iter().map(|member| member.try_map(to)).collect::<Option<Vec<_>>>();
        Some(match self {
            Step::AllOf(members) => Step::AllOf(all(members)?),
            Step::AnyOf(group) => Step::AnyOf(AnyOf {
                members: all(&group.members)?,
                try_next_on: group.try_next_on.clone(),
                optional: group.optional,
            }),
            Step::Filter(filter) => Step::Filter(to(filter)?),
        })
    }
}
