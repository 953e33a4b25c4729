//! The messages of ONNX's file format (onnx.proto, IR version 10) that an exported model consists of, with the field numbers of that file.

use prost::Message;

/// `TensorProto.DataType.FLOAT`
pub(super) const FLOAT: i32 = 1;
/// `TensorProto.DataType.INT64`
pub(super) const INT64: i32 = 7;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(int64, tag = "1")]
    pub(super) ir_version: i64,
    #[prost(string, tag = "2")]
    pub(super) producer_name: String,
    #[prost(string, tag = "3")]
    pub(super) producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub(super) opset_import: Vec<OperatorSet>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperatorSet {
    #[prost(string, tag = "1")]
    pub(super) domain: String,
    #[prost(int64, tag = "2")]
    pub(super) version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(super) node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub(super) input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub(super) output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int64, tag = "3")]
    pub(super) i: i64,
    #[prost(message, optional, tag = "5")]
    pub(super) t: Option<Tensor>,
    #[prost(message, optional, tag = "6")]
    pub(super) g: Option<Graph>,
    #[prost(int64, repeated, tag = "8")]
    pub(super) ints: Vec<i64>,
    /// FLOAT = 1, INT = 2, TENSOR = 4, GRAPH = 5, INTS = 7.
    #[prost(int32, tag = "20")]
    pub(super) r#type: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub(super) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    /// Little-endian.
    #[prost(bytes = "vec", tag = "9")]
    pub(super) raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) r#type: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Type {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorType {
    #[prost(int32, tag = "1")]
    pub(super) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub(super) dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Dimension {
    #[prost(oneof = "Extent", tags = "1, 2")]
    pub(super) value: Option<Extent>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Extent {
    #[prost(int64, tag = "1")]
    Known(i64),
    #[prost(string, tag = "2")]
    Named(String),
}

impl Attribute {
    pub(super) fn int(name: &str, i: i64) -> Attribute {
        Attribute { name: name.into(), i, r#type: 2, ..Attribute::default() }
    }

    pub(super) fn ints(name: &str, ints: Vec<i64>) -> Attribute {
        Attribute { name: name.into(), ints, r#type: 7, ..Attribute::default() }
    }

    pub(super) fn tensor(name: &str, t: Tensor) -> Attribute {
        Attribute { name: name.into(), t: Some(t), r#type: 4, ..Attribute::default() }
    }

    pub(super) fn graph(name: &str, g: Graph) -> Attribute {
        Attribute { name: name.into(), g: Some(g), r#type: 5, ..Attribute::default() }
    }
}

impl Tensor {
    pub(super) fn floats(name: &str, dims: &[usize], values: impl IntoIterator<Item = f32>) -> Tensor {
        let raw_data = values.into_iter().flat_map(f32::to_le_bytes).collect();
        Tensor { dims: dims.iter().map(|d| *d as i64).collect(), data_type: FLOAT, name: name.into(), raw_data }
    }

    pub(super) fn ints(name: &str, values: &[i64]) -> Tensor {
        let raw_data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Tensor { dims: vec![values.len() as i64], data_type: INT64, name: name.into(), raw_data }
    }
}

impl ValueInfo {
    pub(super) fn of_any_shape(name: &str) -> ValueInfo {
        let tensor_type = Some(TensorType { elem_type: FLOAT, shape: None });
        ValueInfo { name: name.into(), r#type: Some(Type { tensor_type }) }
    }

    pub(super) fn floats(name: &str, dims: Vec<Extent>) -> ValueInfo {
        let dim = dims.into_iter().map(|value| Dimension { value: Some(value) }).collect();
        let tensor_type = Some(TensorType { elem_type: FLOAT, shape: Some(Shape { dim }) });
        ValueInfo { name: name.into(), r#type: Some(Type { tensor_type }) }
    }
}
