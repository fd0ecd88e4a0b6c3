// What a ggml backend is made of: tables of functions, in the order in which ggml looks for them. The installed
// headers leave these types incomplete. The version below stands for this order (as of llama-cpp-python 0.3.36);
// where ggml has another one it does not take the backend, and says so.
#pragma once

#include "ggml-backend.h"

constexpr int backend_interface = 2;

using Kind = ggml_backend_buffer_type_t;  // of memory
using Buffer = ggml_backend_buffer_t;
using Stream = ggml_backend_t;
using Device = ggml_backend_dev_t;
using Registry = ggml_backend_reg_t;
using Mark = ggml_backend_event_t;
using Graph = ggml_cgraph *;
using Tensor = ggml_tensor *;
using ConstTensor = const ggml_tensor *;

struct ggml_backend_buffer_type {
    struct Table {
        const char * (*get_name)(Kind);
        Buffer (*alloc_buffer)(Kind, size_t);
        size_t (*get_alignment)(Kind);
        size_t (*get_max_size)(Kind);
        size_t (*get_alloc_size)(Kind, ConstTensor);
        bool (*is_host)(Kind);
    } table;
    Device device;
    void * context;
};

struct ggml_backend_buffer {
    struct Table {
        void (*free_buffer)(Buffer);
        void * (*get_base)(Buffer);
        ggml_status (*init_tensor)(Buffer, Tensor);
        void (*memset_tensor)(Buffer, Tensor, uint8_t value, size_t offset, size_t size);
        void (*set_tensor)(Buffer, Tensor, const void * from, size_t offset, size_t size);
        void (*get_tensor)(Buffer, ConstTensor, void * to, size_t offset, size_t size);
        void (*set_tensor_2d)(Buffer, Tensor, const void *, size_t, size_t, size_t, size_t, size_t);
        void (*get_tensor_2d)(Buffer, ConstTensor, void *, size_t, size_t, size_t, size_t, size_t);
        bool (*cpy_tensor)(Buffer, ConstTensor from, Tensor to);
        void (*clear)(Buffer, uint8_t value);
        void (*reset)(Buffer);
    } table;
    Kind kind;
    void * context;
    size_t size;
    ggml_backend_buffer_usage usage;
};

struct ggml_backend {
    ggml_guid_t guid;
    struct Table {
        const char * (*get_name)(Stream);
        void (*free)(Stream);
        void (*set_tensor_async)(Stream, Tensor, const void *, size_t, size_t);
        void (*get_tensor_async)(Stream, ConstTensor, void *, size_t, size_t);
        void (*set_tensor_2d_async)(Stream, Tensor, const void *, size_t, size_t, size_t, size_t, size_t);
        void (*get_tensor_2d_async)(Stream, ConstTensor, void *, size_t, size_t, size_t, size_t, size_t);
        bool (*cpy_tensor_async)(Stream from, Stream to, ConstTensor, Tensor);
        void (*synchronize)(Stream);
        void * (*graph_plan_create)(Stream, const ggml_cgraph *);
        void (*graph_plan_free)(Stream, void *);
        void (*graph_plan_update)(Stream, void *, const ggml_cgraph *);
        ggml_status (*graph_plan_compute)(Stream, void *);
        ggml_status (*graph_compute)(Stream, Graph);
        void (*event_record)(Stream, Mark);
        void (*event_wait)(Stream, Mark);
        void (*graph_optimize)(Stream, Graph, void *);
    } table;
    Device device;
    void * context;
};

struct ggml_backend_device {
    struct Table {
        const char * (*get_name)(Device);
        const char * (*get_description)(Device);
        void (*get_memory)(Device, size_t * free, size_t * total);
        enum ggml_backend_dev_type (*get_type)(Device);
        void (*get_props)(Device, ggml_backend_dev_props *);
        Stream (*init_backend)(Device, const char * parameters);
        Kind (*get_buffer_type)(Device);
        Kind (*get_host_buffer_type)(Device);
        Buffer (*buffer_from_host_ptr)(Device, void *, size_t, size_t);
        bool (*supports_op)(Device, ConstTensor);
        bool (*supports_buft)(Device, Kind);
        bool (*offload_op)(Device, ConstTensor);
        Mark (*event_new)(Device);
        void (*event_free)(Device, Mark);
        void (*event_synchronize)(Device, Mark);
    } table;
    Registry registry;
    void * context;
};

struct ggml_backend_reg {
    int interface;
    struct Table {
        const char * (*get_name)(Registry);
        size_t (*get_device_count)(Registry);
        Device (*get_device)(Registry, size_t);
        void * (*get_proc_address)(Registry, const char * name);
    } table;
    void * context;
};

extern "C" {
Buffer ggml_backend_buffer_init(Kind, ggml_backend_buffer::Table, void * context, size_t size);
void ggml_log_internal(ggml_log_level, const char * format, ...);
}
