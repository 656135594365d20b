"""EgoDistill (Tan, Nagarajan, Grauman, NeurIPS 2023) on one page: network, losses, both stages, reading a store.

    python examples/one_page.py STORE TEACHER     # a store of `egodistill prepare`, with the outputs of a teacher

Read it first. The library computes the same (tests/examples/test_one_page.py), with options, checks and resumed runs.
"""

import itertools
import sys

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from egodistill import data


class IMUEncoder(nn.Module):
    """f_M, appendix C: a causal dilated CNN, samples [B, T, 6] -> one vector [B, 16 T]."""

    def __init__(self, channels=(6, 16, 32, 64, 128), dilations=(1, 4, 16, 64), width=16):
        super().__init__()
        layers = [nn.ReplicationPad1d((6 * sum(dilations), 0))]
        for (before, after), dilation in zip(itertools.pairwise(channels), dilations, strict=True):
            conv = nn.Conv1d(before, after, 7, dilation=dilation)
            layers += [conv, nn.BatchNorm1d(after), nn.GELU(), nn.Dropout(0.1)]
        self.cnn = nn.Sequential(*layers, nn.Conv1d(channels[-1], width, 1))

    def forward(self, imu):
        imu = imu - imu.mean(1, keepdim=True)  # the sensor's bias differs from clip to clip
        return self.cnn(imu.transpose(1, 2)).flatten(1)


class Student(nn.Module):
    """Phi, figure 2 and equation 2: one frame and the IMU samples of a clip -> the teacher's feature, class logits."""

    def __init__(self, num_classes, feature_dim=768, samples=422, hidden=1024):
        super().__init__()
        self.image_encoder = torchvision.models.resnet18()  # f_I, in the paper with ImageNet's weights
        self.image_encoder.fc = nn.Identity()
        self.imu_encoder = IMUEncoder()
        sizes = [512 + 16 * samples, hidden, hidden, feature_dim]
        layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.fusion = nn.Sequential(*layers[:-1])  # Pi
        self.classifier = nn.Linear(feature_dim, num_classes)

    def encode_frames(self, frames):  # uint8 [B, N, 3, H, W] -> [B, N, 512]
        mean, std = (255 * torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return self.image_encoder((frames.flatten(0, 1) - mean) / std).unflatten(0, frames.shape[:2])

    def fuse(self, image, imu):  # [B, 512], [B, 16 T] -> feature [B, D], logits [B, C]
        feature = self.fusion(torch.cat([image, imu], 1))
        return feature, self.classifier(feature)

    def forward(self, frames, imu):
        return self.fuse(self.encode_frames(frames)[:, 0], self.imu_encoder(imu))


def stage_2_loss(feature, logits, teacher_feature, teacher_logits, labels, alpha=0.95, beta=1.0, tau=1.0):
    """Equation 6: alpha L_KD + (1 - alpha) L_GT + beta L_1."""
    student, teacher = F.log_softmax(logits / tau, 1), F.log_softmax(teacher_logits / tau, 1)
    kd = F.kl_div(student, teacher, reduction="batchmean", log_target=True)  # equation 4
    return alpha * kd + (1 - alpha) * F.cross_entropy(logits, labels) + beta * F.l1_loss(feature, teacher_feature)


def pretraining_loss(student, predictor, images, imu, teacher_feature, tau=0.1):
    """Section 3.4: L_NCE (equation 7) + L_1. Features of the first, the middle and the last frame are [B, 3, 512]."""
    first, middle, last = images.unbind(1)
    motion = student.imu_encoder(imu)
    predicted = predictor(torch.cat([first, last], 1))  # which of the batch's head motions lies between two frames?
    similarity = F.normalize(predicted, dim=1) @ F.normalize(motion, dim=1).T / tau
    l1 = F.l1_loss(student.fuse(middle, motion)[0], teacher_feature)
    return F.cross_entropy(similarity, torch.arange(len(imu))) + l1


def train(modules, store, names, loss, epochs=50, batch_size=64, learning_rate=1e-4):
    """Minimise `loss(arrays, labels)` of batches of a store with AdamW; the rate drops at 60 and 80 % of the epochs."""
    optimizer = torch.optim.AdamW(itertools.chain(*(module.parameters() for module in modules)), learning_rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs * 3 // 5, epochs * 4 // 5], 0.1)
    for epoch in range(epochs):
        for rows in torch.randperm(len(store)).split(batch_size):
            arrays = [torch.from_numpy(store.read(name, rows.numpy())) for name in names]
            value = loss(arrays, torch.from_numpy(store.labels[rows.numpy()]))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        schedule.step()
        print(f"epoch {epoch + 1}: loss {value.item():.3f}")


def main(folder, teacher):
    store, outputs = data.ClipStore(folder).split("train"), [f"{teacher}.feature", f"{teacher}.logits"]
    student = Student(len(store.class_names), store.read(outputs[0], [0]).shape[1], store.read("imu", [0]).shape[1])
    predictor = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, student.fusion[0].in_features - 512))

    def stage_1(arrays, labels):
        first, middle, last = arrays[0][:, :1], arrays[1], arrays[0][:, 1:]
        images = student.encode_frames(torch.cat([first, middle, last], 1)).detach()  # this encoder is frozen here
        return pretraining_loss(student, predictor, images, *arrays[2:])

    student.image_encoder.eval()
    train([student.imu_encoder, student.fusion, predictor], store, ["ends", "frames_1", "imu", outputs[0]], stage_1)
    student.train()
    train([student], store, ["frames_1", "imu", *outputs], lambda x, y: stage_2_loss(*student(*x[:2]), *x[2:], y))
    torch.save(student.state_dict(), "student.pth")  # EgoDistill(...) loads it with load_state_dict()


if __name__ == "__main__":
    main(*sys.argv[1:])
