//! What limits allow by the plan of the caller.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};

/// Amounts by plan.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Plans(BTreeMap<String, Amount>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amount {
    Limited(u64),
    Unlimited,
}

impl Plans {
    /// What callers of this plan have; none for a plan that is not listed.
    pub(crate) fn of(&self, plan: &str) -> Option<Amount> {
        self.0.get(plan).copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn amounts(&self) -> impl Iterator<Item = u64> {
        self.0.values().filter_map(|amount| match amount {
            Amount::Limited(amount) => Some(*amount),
            Amount::Unlimited => None,
        })
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl de::Visitor<'_> for Written {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount or \"unlimited\"")
            }
            fn visit_u64<E: de::Error>(self, amount: u64) -> Result<Amount, E> {
                Ok(Amount::Limited(amount))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                match text {
                    "unlimited" => Ok(Amount::Unlimited),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Written)
    }
}
